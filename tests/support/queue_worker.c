/* A worker of a queue in PostgreSQL, for tests: takes one job at a time within a transaction, and records it twice: the attempt
 * over a connection of its own, which no rollback takes back, and the result within the transaction.
 *
 * Variables: SOCKET (of the server), DATABASE, NAME (of the release), CRASH=job: ends in the middle of its first job.
 * SIGTERM: finishes its job, then ends. */
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static volatile sig_atomic_t ending;

static void on_term(int number) { (void)number; ending = 1; }

static void die(const char *why) { fprintf(stderr, "%s\n", why); exit(1); }

static void put(int line, const void *bytes, size_t count) {
    while (count) {
        ssize_t sent = write(line, bytes, count);
        if (sent < 0) { if (ending) continue; die("the server went away"); }
        bytes = (const char *)bytes + sent, count -= sent;
    }
}

static void get(int line, void *bytes, size_t count) {
    while (count) {
        ssize_t got = read(line, bytes, count);
        if (got < 0 && ending) continue; /* interrupted by SIGTERM */
        if (got <= 0) die("the server went away");
        bytes = (char *)bytes + got, count -= got;
    }
}

/* Reads messages until the server is ready for a query; the first row's columns are put into `row`, separated by spaces. */
static int answer(int line, char *row, size_t room) {
    int rows = 0;
    row[0] = 0;
    for (;;) {
        char kind;
        uint32_t length;
        get(line, &kind, 1);
        get(line, &length, 4);
        length = ntohl(length) - 4;
        char *body = calloc(1, length + 1), *at = body + 2;
        get(line, body, length);
        if (kind == 'E') {
            for (uint32_t byte = 0; byte + 1 < length; byte++)
                if (!body[byte]) body[byte] = 32;
            die(body);
        }
        if (kind == 'D' && !rows++)
            for (int columns = (unsigned char)body[1]; columns; columns--) {
                uint32_t size;
                memcpy(&size, at, 4);
                size = ntohl(size);
                snprintf(row + strlen(row), room - strlen(row), "%.*s ", (int)size, at + 4);
                at += 4 + size;
            }
        free(body);
        if (kind == 'Z') return rows;
    }
}

static int query(int line, char *row, size_t room, const char *format, ...) {
    char text[1000];
    va_list values;
    va_start(values, format);
    uint32_t length = vsnprintf(text, sizeof text, format, values) + 1, size = htonl(length + 4);
    va_end(values);
    put(line, "Q", 1), put(line, &size, 4), put(line, text, length);
    return answer(line, row, room);
}

static int connected(void) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    char message[300], row[100];
    snprintf(place.sun_path, sizeof place.sun_path, "%s", getenv("SOCKET"));
    int line = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(line, (struct sockaddr *)&place, sizeof place)) die("no connection");
    uint32_t version = htonl(196608);
    int length = 8 + sprintf(message + 8, "user%ctidegate%cdatabase%c%s%c%c", 0, 0, 0, getenv("DATABASE"), 0, 0);
    uint32_t size = htonl(length);
    memcpy(message, &size, 4), memcpy(message + 4, &version, 4);
    put(line, message, length);
    answer(line, row, sizeof row);
    return line;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    int line = connected(), record = connected(), crash = getenv("CRASH") != NULL;
    char row[200], name[100], *by = getenv("NAME");
    gethostname(name, sizeof name);
    while (!ending) {
        int job, milliseconds;
        query(line, row, sizeof row, "BEGIN");
        if (!query(line, row, sizeof row, "SELECT id, milliseconds FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED")) {
            query(line, row, sizeof row, "ROLLBACK");
            usleep(20000);
            continue;
        }
        sscanf(row, "%d %d", &job, &milliseconds);
        query(record, row, sizeof row, "INSERT INTO attempts VALUES (%d, '%s', '%s')", job, by, name);
        for (int left = milliseconds; left > 0; left -= 10) {
            usleep(10000);
            if (crash) return 3;
        }
        query(line, row, sizeof row, "DELETE FROM jobs WHERE id = %d", job);
        query(line, row, sizeof row, "INSERT INTO done VALUES (%d, '%s', '%s')", job, by, name);
        query(line, row, sizeof row, "COMMIT");
    }
    return 0;
}
