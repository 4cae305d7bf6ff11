/* The demo's application: a small HTTP/1.1 server with faults that can be ordered. Static, so that it runs FROM scratch.
 *
 * A thread a connection; keep-alive; GET and POST with bodies. Everything is set by the environment:
 *   PORT, VERSION, SERVICE_MS       where it listens, what it says it is, how long a request takes
 *   ERROR_RATIO, SLOW_FACTOR        share of 500 answers (0..1); how much slower than SERVICE_MS
 *   READY=after:SECONDS|never|flap  what /health says
 *   ALWAYS_RATIO, JITTER            share of 500 answers and spread (sd of the log) of times in every release, good or bad
 *   OUTAGE=/path                    while this file exists, a tenth of the requests fail and all take three times as long
 *   CRASH_AFTER, BAD_AFTER          seconds until it ends with status 1; until the faults begin
 *   BAD_ORDINAL                     only the instance with this TIDEGATE_ORDINAL is faulty
 *   LEAK_MB_PER_MINUTE              memory that is taken and kept
 *   ON_SIGTERM=exit|graceful|ignore dies at once (requests in flight are lost); finishes them; does not listen
 *   COUNTERS=/directory             a file per process with counts that survive SIGKILL
 *   LATE_SICK_SECONDS               requests that reach an instance which has been sick for so long are counted, by default 3
 *   BIND=loopback                   listens where nobody outside of its container can connect
 *   REQUIRED=name: value            requests without this header are answered with 400, as by an application with several hosts
 *   LOCK=/path                      one process at a time may have this file; each adds a line, and ends if another has it
 * A GET of these paths is a fault that begins with it, in this instance only:
 *   /sick, /well                    every request is answered with 503, /health too; /well ends it
 *   /oom                            memory is taken until the kernel kills the process
 *   /exit?code=N                    ends at once with this status, by default 1, without a response
 * A GET of /events is answered with a stream of events, one each 200 ms, until the client or the process leaves.
 * A GET of /ws with `Upgrade: websocket` begins a WebSocket: each short frame of the client is sent back until it closes.
 * `/app healthy` asks the running one for /health and ends with 0 or 1, for a HEALTHCHECK. `/app hook STATUS MS` and
 * `/app smoke VERSION` are commands for hooks.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUCKETS = 10, BUFFER = 16384 };
static const double bounds[BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};

/* Counts that survive SIGKILL, in a file when COUNTERS is set. */
struct counts {
    atomic_long started, finished, posts, inflight_at_term, late_while_sick;
};
static struct counts private_counts, *counts = &private_counts;
static atomic_long served_ok, served_bad, histogram[BUCKETS + 1], sum_us;
static atomic_int leaving, outage, sick;
static double began, sick_since;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static const char *text(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static double number(const char *name, double otherwise) {
    const char *value = getenv(name);
    return value && *value ? atof(value) : otherwise;
}

static void pause_ms(double ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)((ms - (long)(ms / 1000) * 1000) * 1e6)};
    while (nanosleep(&t, &t) && errno == EINTR) {}
}

static double uniform(void) { return ((double)random() + 1) / ((double)RAND_MAX + 2); }

static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); } /* Box and Muller */

static int faulty(void) {
    const char *only = getenv("BAD_ORDINAL");
    if (only && *only && strcmp(only, text("TIDEGATE_ORDINAL", ""))) return 0;
    return now() - began >= number("BAD_AFTER", 0);
}

static int ready(void) {
    const char *rule = text("READY", "");
    double age = now() - began;
    if (!strcmp(rule, "never")) return 0;
    if (!strcmp(rule, "flap")) return (long)age % 2 == 0;
    if (!strncmp(rule, "after:", 6)) return age >= atof(rule + 6);
    return 1;
}

static int write_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int respond(int fd, int status, const char *body, int keep) {
    char answer[BUFFER];
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 %d %s\r\nX-Version: %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n%s", status,
                        status == 200 ? "OK" : status == 400 ? "Bad Request" : status == 404 ? "Not Found" : status == 503 ? "Unavailable" : "Error",
                        text("VERSION", "?"), strlen(body), keep ? "" : "Connection: close\r\n", body);
    return size >= (int)sizeof answer ? -1 : write_all(fd, answer, (size_t)size);
}

static long resident(void) {
    char text[128] = "";
    long size = 0, pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 && sscanf(text, "%ld %ld", &size, &pages) == 2 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

static void metrics(char *body, size_t size) {
    size_t used = (size_t)snprintf(body, size,
        "# TYPE http_requests_total counter\nhttp_requests_total{code=\"200\"} %ld\nhttp_requests_total{code=\"500\"} %ld\n"
        "# TYPE http_request_duration_seconds histogram\n", served_ok, served_bad);
    long total = 0;
    for (int i = 0; i <= BUCKETS; i++) {
        char bound[16] = "+Inf";
        if (i < BUCKETS) snprintf(bound, sizeof bound, "%g", bounds[i]);
        total += histogram[i];
        used += (size_t)snprintf(body + used, size - used, "http_request_duration_seconds_bucket{le=\"%s\"} %ld\n", bound, total);
    }
    snprintf(body + used, size - used,
             "http_request_duration_seconds_sum %.6f\nhttp_request_duration_seconds_count %ld\n"
             "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %ld\n",
             (double)sum_us / 1e6, total, resident());
}

/* Server-sent events, until the connection is closed. */
static int stream(int fd) {
    char head[256];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nX-Version: %s\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
                        text("VERSION", "?"));
    int sent = write_all(fd, head, (size_t)size);
    while (!sent && !leaving) {
        sent = write_all(fd, "data: on\n\n", 10);
        pause_ms(200);
    }
    return -1;
}

/* One real request: takes its time, may fail as ordered, is counted. */
static int serve(int fd, const char *path, int post, int keep) {
    double start = now(), ms = number("SERVICE_MS", 5);
    const char *asked = strstr(path, "ms=");
    if (asked) ms = atof(asked + 3);
    int bad = faulty();
    if (bad) ms *= number("SLOW_FACTOR", 1);
    if (outage) ms *= 3;
    ms *= exp(number("JITTER", 0) * normal());
    counts->started++;
    pause_ms(ms);
    double ratio = number("ALWAYS_RATIO", 0) + (bad ? number("ERROR_RATIO", 0) : 0) + (outage ? 0.1 : 0);
    int fails = uniform() < ratio;
    if (post) counts->posts++;
    char body[256];
    snprintf(body, sizeof body, "%s %s\n", text("VERSION", "?"), text("TIDEGATE_ORDINAL", "-"));
    int sent = respond(fd, fails ? 500 : 200, fails ? "ordered to fail\n" : body, keep);
    double took = now() - start;
    int bucket = 0;
    while (bucket < BUCKETS && took > bounds[bucket]) bucket++;
    histogram[bucket]++;
    sum_us += (long)(took * 1e6);
    fails ? served_bad++ : served_ok++;
    counts->finished++;
    return sent;
}

static void take_all_memory(void) {
    for (;;) {
        void *kept = malloc(8 << 20);
        if (kept) memset(kept, 1, 8 << 20);
        pause_ms(10);
    }
}

/* Begin or end the fault that this path orders; returns whether it is such a path. */
static int order_fault(const char *path) {
    const char *code = strstr(path, "code=");
    if (!strncmp(path, "/exit", 5)) _exit(code ? atoi(code + 5) : 1);
    if (!strcmp(path, "/oom")) take_all_memory();
    int begins = !strcmp(path, "/sick");
    if (!begins && strcmp(path, "/well")) return 0;
    if (begins && !sick) sick_since = now();
    sick = begins;
    return 1;
}

static int answer(int fd, const char *method, const char *path, int keep) {
    char body[8192];
    if (order_fault(path)) return respond(fd, 200, sick ? "sick\n" : "well\n", keep);
    if (sick && strcmp(path, "/metrics") && strcmp(path, "/counters")) {
        if (strncmp(path, "/health", 7) && now() - sick_since > number("LATE_SICK_SECONDS", 3)) counts->late_while_sick++;
        return respond(fd, 503, "sick\n", keep);
    }
    if (!strcmp(path, "/events")) return stream(fd);
    if (!strncmp(path, "/health", 7)) return respond(fd, ready() ? 200 : 503, ready() ? "ready\n" : "not ready\n", keep);
    if (!strcmp(path, "/metrics")) {
        metrics(body, sizeof body);
        return respond(fd, 200, body, keep);
    }
    if (!strcmp(path, "/counters")) {
        snprintf(body, sizeof body, "{\"started\": %ld, \"finished\": %ld, \"posts\": %ld}\n", counts->started, counts->finished,
                 counts->posts);
        return respond(fd, 200, body, keep);
    }
    if (path[0] != '/' || (path[1] && path[1] != '?')) return respond(fd, 404, "no such path\n", keep);
    return serve(fd, path, !strcmp(method, "POST"), keep);
}

static uint32_t turned(uint32_t word, int by) { return word << by | word >> (32 - by); }

/* SHA-1 of a text of up to 111 bytes, for the handshake of a WebSocket (RFC 6455 asks for it). */
static void sha1(const char *text, unsigned char digest[20]) {
    unsigned char data[128] = {0};
    size_t size = strlen(text), blocks = size < 56 ? 1 : 2;
    memcpy(data, text, size);
    data[size] = 0x80;
    data[blocks * 64 - 2] = (unsigned char)(size * 8 >> 8);
    data[blocks * 64 - 1] = (unsigned char)(size * 8);
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    for (size_t block = 0; block < blocks; block++) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            const unsigned char *at = data + block * 64 + i * 4;
            if (i < 16) w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
            else w[i] = turned(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
            uint32_t f = i < 20   ? (b & c) + (~b & d) + 0x5a827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                         : i < 60 ? ((b & c) | (d & (b | c))) + 0x8f1bbcdc
                                  : (b ^ c ^ d) + 0xca62c1d6;
            uint32_t next = turned(a, 5) + f + e + w[i];
            e = d, d = c, c = turned(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - i % 4 * 8));
}

static void base64(const unsigned char digest[20], char out[29]) {
    static const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 28; i++) {
        int bit = i * 6, pair = digest[bit / 8] << 8 | (bit / 8 + 1 < 20 ? digest[bit / 8 + 1] : 0);
        out[i] = letters[pair >> (10 - bit % 8) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static int receive_all(int fd, unsigned char *data, size_t size) {
    return size == 0 || recv(fd, data, size, MSG_WAITALL) == (ssize_t)size ? 0 : -1;
}

/* Agree to a WebSocket and send each frame back, unmasked, until a close has been sent back. It counts as no request. */
static int talk(int fd, const char *head) {
    char key[40] = "", joined[96], accept[29], answer[256];
    unsigned char digest[20], frame[2 + 125], mask[4];
    const char *at = strcasestr(head, "\r\nSec-WebSocket-Key:");
    if (!strcasestr(head, "\r\nUpgrade: websocket") || !at || sscanf(at + 20, " %39s", key) != 1)
        return respond(fd, 400, "Upgrade: websocket and a key are needed\n", 0);
    snprintf(joined, sizeof joined, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(joined, digest);
    base64(digest, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Version: %s\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", text("VERSION", "?"), accept);
    if (write_all(fd, answer, (size_t)size)) return -1;
    while (!receive_all(fd, frame, 2)) {
        size_t length = frame[1] & 127;
        if (!(frame[1] & 128) || length > 125 || receive_all(fd, mask, 4) || receive_all(fd, frame + 2, length)) return -1;
        for (size_t i = 0; i < length; i++) frame[2 + i] ^= mask[i % 4];
        frame[1] = (unsigned char)length;
        if (write_all(fd, (const char *)frame, 2 + length) || (frame[0] & 15) == 8) return -1;
    }
    return -1;
}

/* Read one request head into `data`; returns its length, 0 at a clean end, -1 when it is broken. */
static long read_head(int fd, char *data, size_t *have) {
    for (;;) {
        char *end = memmem(data, *have, "\r\n\r\n", 4);
        if (end) return end + 4 - data;
        if (*have == BUFFER) return -1;
        ssize_t got = recv(fd, data + *have, BUFFER - *have, 0);
        if (got <= 0) return *have ? -1 : 0;
        *have += (size_t)got;
    }
}

/* Drop a head and its body; what follows (a pipelined request) moves to the front. */
static int consume(int fd, char *data, size_t *have, size_t head, size_t body) {
    size_t there = *have - head < body ? *have - head : body;
    memmove(data, data + head + there, *have - head - there);
    *have -= head + there;
    for (size_t left = body - there; left;) {
        char sink[4096];
        ssize_t got = recv(fd, sink, left < sizeof sink ? left : sizeof sink, 0);
        if (got <= 0) return -1;
        left -= (size_t)got;
    }
    return 0;
}

static void *converse(void *argument) {
    int fd = (int)(long)argument, keep = 1;
    char *data = malloc(BUFFER + 1);
    size_t have = 0;
    while (keep && data) {
        long head = read_head(fd, data, &have);
        if (head <= 0) break;
        char method[8] = "", path[1024] = "", version[16] = "", saved = data[head - 1];
        data[head - 1] = 0;
        if (sscanf(data, "%7s %1023s %15s", method, path, version) != 3) break;
        if (!strcmp(path, "/ws")) {
            talk(fd, data);
            break;
        }
        const char *required = text("REQUIRED", "");
        if (*required && !strcasestr(data, required)) {
            respond(fd, 400, "a header is missing\n", 0);
            break;
        }
        const char *length = strcasestr(data, "\r\nContent-Length:");
        keep = !strcasestr(data, "\r\nConnection: close") && strcmp(version, "HTTP/1.0") && !leaving;
        size_t body = length ? strtoul(length + 17, NULL, 10) : 0;
        data[head - 1] = saved;
        if (consume(fd, data, &have, (size_t)head, body) || answer(fd, method, path, keep)) break;
    }
    free(data);
    close(fd);
    return NULL;
}

static void on_term(int signal_number) {
    (void)signal_number;
    counts->inflight_at_term = counts->started - counts->finished;
    if (!strcmp(text("ON_SIGTERM", "exit"), "exit")) _exit(0);
    leaving = 1;
}

static void *leave_gracefully(void *unused) {
    (void)unused;
    while (!leaving) pause_ms(20);
    while (counts->started > counts->finished) pause_ms(20);
    _exit(0);
}

static void *misbehave(void *unused) {
    (void)unused;
    const char *shared = text("OUTAGE", "");
    double crash = number("CRASH_AFTER", -1), leak = number("LEAK_MB_PER_MINUTE", 0);
    for (;;) {
        pause_ms(100);
        outage = *shared && !access(shared, F_OK);
        if (crash >= 0 && now() - began >= crash && faulty()) {
            fprintf(stderr, "fatal: ordered to crash after %g s\n", crash);
            _exit(1);
        }
        if (leak > 0 && faulty()) {
            size_t size = (size_t)(leak * 1048576 / 600);
            void *kept = malloc(size);
            if (kept) memset(kept, 1, size);
        }
    }
    return NULL;
}

static void keep_counts(void) {
    char path[512];
    const char *directory = getenv("COUNTERS");
    if (!directory || !*directory) return;
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(path, sizeof path, "%s/%s-%ld", directory, host, (long)time(NULL));
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0 || ftruncate(fd, sizeof *counts)) {
        perror(path);
        exit(1);
    }
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counts == MAP_FAILED) exit(1);
    close(fd);
}

/* The beginning of the response, at least 12 characters. */
static void get(const char *host, int port, const char *path, char *response, size_t size) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    char ask[128];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(response, 0, size);
    snprintf(response, size, "no answer yet");
    snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    if (fd < 0 || inet_pton(AF_INET, host, &at.sin_addr) != 1) return;
    if (connect(fd, (struct sockaddr *)&at, sizeof at) || write_all(fd, ask, strlen(ask))) return;
    if (recv(fd, response, size - 1, 0) < 12) snprintf(response, size, "no answer at all");
}

static int healthy(void) {
    char response[1024];
    get("127.0.0.1", number("PORT", 8080), "/health", response, sizeof response);
    return strncmp(response + 9, "200", 3) != 0;
}

/* `app smoke VERSION`: whether the preview that a hook is names of is answered by this version. */
static int smoke(const char *version) {
    char host[16] = "", response[1024], wanted[64];
    int port = 0;
    if (sscanf(text("TIDEGATE_PREVIEW_URL", ""), "http://%15[0-9.]:%d", host, &port) != 2) return 2;
    get(host, port, "/", response, sizeof response);
    snprintf(wanted, sizeof wanted, "X-Version: %s\r\n", version);
    printf("%s\n", response);
    return strcasestr(response, wanted) == NULL; // a proxy may write names in small letters
}

/* `app hook STATUS MS`: tells what it was names, waits, and ends so: for hooks of rollouts. */
static int hook(int status, int ms) {
    const char *names[] = {"TIDEGATE_HOOK", "TIDEGATE_RELEASE", "TIDEGATE_PREVIEW_URL", "DB_URL"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) printf("%s=%s\n", names[i], text(names[i], ""));
    fflush(stdout);
    usleep((useconds_t)ms * 1000);
    return status;
}

/* Take the file of `LOCK` until this process ends, and add a line to it; without it, end. */
static void take_lock(void) {
    const char *path = text("LOCK", "");
    if (!*path) return;
    int fd = open(path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0644);
    int locked = fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB);
    if (fd >= 0) dprintf(fd, "%s %s\n", locked ? "taken" : "conflict", text("TIDEGATE_RELEASE", "?"));
    if (locked) return;
    perror("fatal: lock");
    _exit(1);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "healthy")) return healthy();
    if (argc > 2 && !strcmp(argv[1], "smoke")) return smoke(argv[2]);
    if (argc > 1 && !strcmp(argv[1], "hook")) return hook(argc > 2 ? atoi(argv[2]) : 0, argc > 3 ? atoi(argv[3]) : 0);
    take_lock();
    began = now();
    srandom((unsigned)time(NULL) ^ (unsigned)getpid());
    keep_counts();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, strcmp(text("ON_SIGTERM", "exit"), "ignore") ? on_term : SIG_IGN);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)number("PORT", 8080))};
    at.sin_addr.s_addr = htonl(strcmp(text("BIND", ""), "loopback") ? INADDR_ANY : INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) {
        perror("listen");
        return 1;
    }
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 131072);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    pthread_create(&thread, &small, misbehave, NULL);
    pthread_create(&thread, &small, leave_gracefully, NULL);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (pthread_create(&thread, &small, converse, (void *)(long)fd)) close(fd);
    }
}
