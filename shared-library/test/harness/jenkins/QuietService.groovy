package jenkins

/**
 * A service that has nothing to report for some simulated seconds: polls of that time get an empty page at once. The scenario's
 * `quiet` says how long, beginning with the first poll that would wait. It counts what Jenkins records meanwhile. A `proxy` ends
 * requests that take longer than its seconds.
 */
class QuietService {
    private final double seconds
    private final double proxy
    private double elapsed = 0
    private int nodes = 0
    private int cut = 0
    private boolean begun = false

    QuietService(Number seconds, Number proxy) {
        this.seconds = seconds
        this.proxy = proxy
    }

    void count(int more) {
        nodes += begun && elapsed < seconds ? more : 0
    }

    /** The response to a poll during the quiet time; null for any other request. */
    HttpRequest.Response answer(Map options) {
        def wait = (options.url =~ /[?&]wait=([0-9.]+)/)
        if (elapsed >= seconds || !wait) {
            return null
        }
        if (!begun) { // the events so far come at once
            begun = true
            return null
        }
        double held = wait[0][1].toDouble()
        if (held > proxy) {
            elapsed += proxy
            cut++
            return new HttpRequest.Response(status: 504, content: '<html>Gateway Time-out</html>')
        }
        elapsed += held
        return new HttpRequest.Response(status: 200, content: '{"events": [], "last": 0, "reached": false}')
    }

    Map record() {
        return [seconds: elapsed, nodes: nodes, cut: cut]
    }
}
