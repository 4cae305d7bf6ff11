package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** Idempotency keys: the same build and stage give the same key, so that a repeated request never acts twice. */
class Keys implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int LONGEST = 200 // what the service takes

    /** `job#number/stage` of visible ASCII. A longer one keeps its tail, which tells most, behind a SHA-256 of it all. */
    @NonCPS
    static String of(String job, String number, String stage) {
        String key = encoded(job) + '#' + number + '/' + encoded(stage)
        if (key.length() <= LONGEST) {
            return key
        }
        String digest = sha256(key)
        return digest + '-' + key.substring(key.length() - (LONGEST - digest.length() - 1))
    }

    /** A part of a URL's path, or of a key. */
    @NonCPS
    static String encoded(String text) {
        return URLEncoder.encode(text, 'UTF-8')
    }

    /** Of an environment/name. */
    @NonCPS
    static String servicePath(String service) {
        int slash = service.indexOf('/')
        return '/v1/services/' + encoded(service.substring(0, slash)) + '/' + encoded(service.substring(slash + 1))
    }

    /** Written out, since the sandbox allows no MessageDigest (FIPS 180-4). */
    /** The folder of a path, with its slash; empty where the path has none. */
    @NonCPS
    static String folder(String path) {
        return path == null ? '' : path.replaceAll('[^/]*$', '')
    }

    @NonCPS
    static String sha256(String text) {
        List<Integer> state = [0x6a09e667, (int) 0xbb67ae85, 0x3c6ef372, (int) 0xa54ff53a,
                               0x510e527f, (int) 0x9b05688c, 0x1f83d9ab, 0x5be0cd19]
        List<Integer> bytes = padded(text)
        for (int block = 0; block < bytes.size(); block += 64) {
            state = mixed(state, bytes.subList(block, block + 64))
        }
        String digest = ''
        for (Integer word in state) {
            digest += String.format('%08x', word)
        }
        return digest
    }

    @NonCPS
    private static List<Integer> padded(String text) {
        List<Integer> bytes = []
        for (byte each in text.getBytes('UTF-8')) {
            bytes.add(each & 0xff)
        }
        int length = bytes.size() * 8
        bytes.add(0x80)
        while (bytes.size() % 64 != 56) {
            bytes.add(0)
        }
        bytes.addAll([0, 0, 0, 0]) // no key is so long that its length needs more than 32 bits
        for (int shift in [24, 16, 8, 0]) {
            bytes.add((length >>> shift) & 0xff)
        }
        return bytes
    }

    @NonCPS
    private static List<Integer> mixed(List<Integer> state, List<Integer> bytes) {
        List<Integer> words = expanded(bytes)
        List<Integer> constants = constants()
        int a = state[0], b = state[1], c = state[2], d = state[3]
        int e = state[4], f = state[5], g = state[6], h = state[7]
        for (int round = 0; round < 64; round++) {
            int choice = (e & f) ^ ((-1 ^ e) & g)
            int majority = (a & b) ^ (a & c) ^ (b & c)
            int first = (int) (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + constants[round] + words[round])
            int second = (int) ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority)
            h = g
            g = f
            f = e
            e = (int) (d + first)
            d = c
            c = b
            b = a
            a = (int) (first + second)
        }
        List<Integer> after = []
        List<Integer> ends = [a, b, c, d, e, f, g, h]
        for (int each = 0; each < 8; each++) {
            after.add((int) (state[each] + ends[each]))
        }
        return after
    }

    @NonCPS
    private static List<Integer> expanded(List<Integer> bytes) {
        List<Integer> words = []
        for (int each = 0; each < 64; each += 4) {
            words.add((bytes[each] << 24) | (bytes[each + 1] << 16) | (bytes[each + 2] << 8) | bytes[each + 3])
        }
        for (int each = 16; each < 64; each++) {
            int near = words[each - 2]
            int far = words[each - 15]
            int low = turned(far, 7) ^ turned(far, 18) ^ (far >>> 3)
            int high = turned(near, 17) ^ turned(near, 19) ^ (near >>> 10)
            words.add((int) (words[each - 16] + low + words[each - 7] + high))
        }
        return words
    }

    @NonCPS
    private static int turned(int word, int by) {
        return (word >>> by) | (word << (32 - by))
    }

    /** The first 32 bits behind the point of the cube roots of the first 64 primes. */
    @NonCPS
    private static List<Integer> constants() {
        List<Integer> found = []
        for (int number = 2; found.size() < 64; number++) {
            boolean prime = true
            for (int divisor = 2; divisor * divisor <= number; divisor++) {
                prime = prime && number % divisor != 0
            }
            if (prime) {
                double root = Math.cbrt((double) number)
                found.add((int) (long) ((root - Math.floor(root)) * 4294967296.0d))
            }
        }
        return found
    }
}
