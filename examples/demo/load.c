/* A load generator that never retries and counts every request by its outcome.
 *
 *   load --host 127.0.0.1 --port 8001 --get-ka 80 --get 40 --post-ka 30 --post 20 --slow-gets 4 --slow-get-ms 2000
 *        --slow-posts 4 --slow-post-ms 3000 --seconds 60 --client naive|checking
 *
 * --get-ka, --post-ka: requests per second on reused connections; --get, --post: each on a new one; --slow-*: that many callers, one
 * request after the other. A `naive` client sends on a reused connection without checking; a `checking` one checks for a FIN first, as
 * urllib3 and Go do. Each second, and at the end (after --seconds, SIGTERM or SIGINT; requests in flight are finished), one line of
 * JSON with the totals:
 *   ok, status_4xx, status_5xx, refused, reset, eof_fresh, eof_reused, truncated, timeout, requests, posts_sent, gateway_5xx,
 *   p50_ms, p99_ms, final
 * `gateway_5xx` are those of the 5xx without X-Version: the proxy made them, not the application.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum outcome { OK, S4XX, S5XX, REFUSED, RESET, EOF_FRESH, EOF_REUSED, TRUNCATED, TIMEOUT, OUTCOMES };
static const char *names[OUTCOMES] = {"ok",        "status_4xx", "status_5xx", "refused", "reset",
                                      "eof_fresh", "eof_reused", "truncated",  "timeout"};
enum { SLOTS = 4096, BUFFER = 65536, TIMEOUT_MS = 20000 };
static atomic_long totals[OUTCOMES], posts_sent, gateway_5xx, latency[SLOTS];
static atomic_int stopping;
static int checking;
static struct sockaddr_in target;

struct caller {
    int post, keep;
    double every;  /* seconds between two requests; 0: one after the other */
    double ms;     /* asked service time; 0: the application's own */
    double offset; /* when it begins, so that callers do not march in step */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void rest(double seconds) {
    if (seconds <= 0) return;
    struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct timeval limit = {TIMEOUT_MS / 1000, 0};
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&target, sizeof target) == 0) return fd;
    close(fd);
    return -1;
}

/* Whether the other side has closed an idle connection. */
static int stale(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) != 0;
}

static enum outcome broken(int got, int reused) {
    if (got == 0) return reused ? EOF_REUSED : EOF_FRESH;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return TIMEOUT;
    return RESET;
}

/* Read one whole answer; sets `close_after`. */
static enum outcome read_answer(int fd, int reused, int *close_after) {
    char data[BUFFER + 1];
    size_t have = 0, need = 0;
    while (!need || have < need) {
        if (have == BUFFER) return TRUNCATED;
        ssize_t got = recv(fd, data + have, BUFFER - have, 0);
        if (got <= 0) return have ? TRUNCATED : broken((int)got, reused);
        have += (size_t)got;
        data[have] = 0;
        char *end = need ? NULL : strstr(data, "\r\n\r\n");
        if (!end) continue;
        char *length = strcasestr(data, "\r\nContent-Length:");
        need = (size_t)(end + 4 - data) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        if (!length || length > end) *close_after = 1;
    }
    if (strcasestr(data, "\r\nConnection: close")) *close_after = 1;
    int status = have > 12 ? atoi(data + 9) : 0;
    if (status >= 500 && !strcasestr(data, "\r\nX-Version:")) gateway_5xx++;
    return status == 200 ? OK : status >= 500 ? S5XX : S4XX;
}

static enum outcome request(const struct caller *c, int *fd) {
    char text[512];
    int reused = *fd >= 0, close_after = !c->keep;
    if (reused && checking && stale(*fd)) {
        close(*fd);
        *fd = -1;
        reused = 0;
    }
    if (*fd < 0 && (*fd = dial()) < 0) return errno == ECONNREFUSED ? REFUSED : errno == ECONNRESET ? RESET : TIMEOUT;
    char path[64] = "/";
    if (c->ms > 0) snprintf(path, sizeof path, "/?ms=%g", c->ms);
    int size = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: shop\r\n%s%s\r\n%s", c->post ? "POST" : "GET", path,
                        c->keep ? "" : "Connection: close\r\n", c->post ? "Content-Length: 5\r\n" : "", c->post ? "order" : "");
    if (c->post) posts_sent++;
    enum outcome result = send(*fd, text, (size_t)size, MSG_NOSIGNAL) == size ? read_answer(*fd, reused, &close_after) : broken(-1, reused);
    if (result > S5XX || close_after) {
        close(*fd);
        *fd = -1;
    }
    return result;
}

static void *call(void *argument) {
    const struct caller *c = argument;
    int fd = -1;
    double due = now() + c->offset;
    rest(c->offset);
    while (!stopping) {
        double start = now();
        totals[request(c, &fd)]++;
        int slot = (int)((now() - start) * 1000);
        latency[slot < SLOTS ? slot : SLOTS - 1]++;
        due += c->every;
        if (c->every > 0 && due < now() - 1) due = now(); /* fell behind: do not make up with a burst */
        if (c->every > 0) rest(due - now());
    }
    if (fd >= 0) close(fd);
    return NULL;
}

static int percentile(double share) {
    long total = 0, seen = 0;
    for (int i = 0; i < SLOTS; i++) total += latency[i];
    for (int i = 0; i < SLOTS; i++)
        if ((seen += latency[i]) >= share * (double)total) return i;
    return 0;
}

static void tell(int final) {
    long requests = 0;
    printf("{");
    for (int i = 0; i < OUTCOMES; i++) {
        long count = totals[i];
        requests += count;
        printf("\"%s\": %ld, ", names[i], count);
    }
    printf("\"requests\": %ld, \"posts_sent\": %ld, \"gateway_5xx\": %ld, \"p50_ms\": %d, \"p99_ms\": %d, \"final\": %s}\n", requests,
           posts_sent, gateway_5xx, percentile(0.5), percentile(0.99), final ? "true" : "false");
    fflush(stdout);
}

static void on_stop(int signal_number) {
    (void)signal_number;
    stopping = 1;
}

enum { MOST_CALLERS = 512 };
static struct caller callers[MOST_CALLERS];
static int count;

/* As many callers as `rate` needs when none is asked more than ten times a second. */
static void spread(double rate, int post, int keep) {
    int wanted = (int)(rate / 10) + (rate > 0);
    for (int i = 0; i < wanted && count < MOST_CALLERS; i++)
        callers[count++] = (struct caller){post, keep, wanted / rate, 0, (double)i / rate};
}

static void repeat(int wanted, int post, double ms) {
    for (int i = 0; i < wanted && count < MOST_CALLERS; i++) callers[count++] = (struct caller){post, 1, 0, ms, i * 0.13};
}

int main(int argc, char **argv) {
    double get_ka = 0, get = 0, post_ka = 0, post = 0, seconds = 10, get_ms = 2000, post_ms = 3000;
    int slow_gets = 0, slow_posts = 0;
    target.sin_family = AF_INET;
    for (int i = 1; i < argc; i += 2) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) return fprintf(stderr, "%s needs a value\n", flag), 2;
        if (!strcmp(flag, "--host")) inet_pton(AF_INET, value, &target.sin_addr);
        else if (!strcmp(flag, "--port")) target.sin_port = htons((unsigned short)atoi(value));
        else if (!strcmp(flag, "--get-ka")) get_ka = atof(value);
        else if (!strcmp(flag, "--get")) get = atof(value);
        else if (!strcmp(flag, "--post-ka")) post_ka = atof(value);
        else if (!strcmp(flag, "--post")) post = atof(value);
        else if (!strcmp(flag, "--slow-gets")) slow_gets = atoi(value);
        else if (!strcmp(flag, "--slow-posts")) slow_posts = atoi(value);
        else if (!strcmp(flag, "--slow-get-ms")) get_ms = atof(value);
        else if (!strcmp(flag, "--slow-post-ms")) post_ms = atof(value);
        else if (!strcmp(flag, "--seconds")) seconds = atof(value);
        else if (!strcmp(flag, "--client")) checking = !strcmp(value, "checking");
        else return fprintf(stderr, "unknown option %s\n", flag), 2;
    }
    struct sigaction act = {.sa_handler = on_stop};
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    spread(get_ka, 0, 1);
    spread(get, 0, 0);
    spread(post_ka, 1, 1);
    spread(post, 1, 0);
    repeat(slow_gets, 0, get_ms);
    repeat(slow_posts, 1, post_ms);
    pthread_t threads[MOST_CALLERS];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 262144);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], &small, call, &callers[i])) return perror("pthread_create"), 1;
    double end = now() + seconds;
    while (!stopping && now() < end) {
        rest(end - now() < 1 ? end - now() : 1);
        tell(0);
    }
    stopping = 1;
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    tell(1);
    return 0;
}
