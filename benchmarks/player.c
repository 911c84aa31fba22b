/* Plays the clients of a mail server: many connections that follow one script, in one thread.
 *
 *     player HOST PORT CONNECTIONS MESSAGES < SCRIPT
 *
 * A script is a sequence of steps, each a line and then octets:
 *
 *     PART REPLIES MESSAGES LENGTH\n<LENGTH octets>
 *
 * The octets are sent, then REPLIES replies are waited for, and then MESSAGES messages have been taken.
 * A connection plays the parts in this order: O (once, when it opens), R (over and over while messages are
 * left; once if the script has a part N, "new connection for each"), C (once, before it closes).
 * A reply that is not 2yz or 3yz ends the connection and counts as an error.
 *
 * One line of JSON is printed: messages, errors, seconds, the CPU seconds of the player, and the
 * latencies of the steps that end a message in ms. Octets are shared between connections and never
 * copied, so a player costs less than the servers that it is for.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* So many connect at the same time at first: a queue of the kernel that overflows costs seconds. */
enum { MOST_ERRORS = 50, PATIENCE_MS = 30000, FIRST = 50 };

struct step {
    char *octets;
    size_t length;
    int replies, messages;
};

struct part {
    struct step *steps;
    int count, messages;
};

static struct part opening, round_, closing;
static int fresh; /* a new connection for each round */

struct player {
    int fd, step, waiting, column, wants_room;
    char code[4];
    size_t sent;
    double since;
    const struct part *part;
};

static struct sockaddr_in server;
static struct player *players;
static int poller, playing, connections, known;
static long left, taken, errors;
static double *latencies;
static long latency_count;

static void die(const char *why) {
    fprintf(stderr, "player: %s\n", why);
    exit(2);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void read_script(void) {
    char name;
    struct step step;
    while (scanf("%c %d %d %zu", &name, &step.replies, &step.messages, &step.length) == 4) {
        if (getchar() != '\n') die("bad script");
        if (name == 'N') { fresh = 1; continue; }
        struct part *part = name == 'O' ? &opening : name == 'R' ? &round_ : name == 'C' ? &closing : NULL;
        if (!part || !(step.octets = malloc(step.length + 1))) die("bad script");
        if (fread(step.octets, 1, step.length, stdin) != step.length) die("script too short");
        part->steps = realloc(part->steps, sizeof step * (part->count + 1));
        part->steps[part->count++] = step;
        part->messages += step.messages;
    }
    if (!opening.count || !round_.count || !closing.count || !round_.messages) die("no script");
}

static void start(struct player *one);

static void stop(struct player *one, int failed) {
    close(one->fd);
    one->fd = -1;
    playing--;
    if (failed && ++errors > MOST_ERRORS) die("too many errors");
    if (left > 0) start(one);
}

static void want_room(struct player *one, int wants) {
    if (one->wants_room == wants) return;
    struct epoll_event event = {.events = EPOLLIN | (wants ? EPOLLOUT : 0), .data.ptr = one};
    epoll_ctl(poller, EPOLL_CTL_MOD, one->fd, &event);
    one->wants_room = wants;
}

/* Send what is left of the step. If the connection is gone, reading tells. */
static void push(struct player *one) {
    const struct step *step = &one->part->steps[one->step];
    while (one->sent < step->length) {
        ssize_t size = send(one->fd, step->octets + one->sent, step->length - one->sent, MSG_NOSIGNAL);
        if (size < 0) {
            want_room(one, errno == EAGAIN || errno == ENOTCONN);
            return;
        }
        one->sent += size;
    }
    want_room(one, 0);
}

static void enter(struct player *one, const struct part *part, int step) {
    one->part = part;
    one->step = step;
    one->sent = 0;
    one->waiting = part->steps[step].replies;
    push(one);
}

/* Reserve the messages of a round; 0 if none are left. */
static int take_round(struct player *one) {
    if (left <= 0) return 0;
    left -= round_.messages;
    one->since = seconds();
    return 1;
}

/* All replies to a step have come; 0 if they were the last. */
static int advance(struct player *one) {
    const struct step *done = &one->part->steps[one->step];
    if (done->messages) {
        double now = seconds();
        taken += done->messages;
        latencies[latency_count++] = now - one->since;
        one->since = now;
    }
    /* It is greeted: the next may come. */
    if (one->part == &opening && !one->step && known < connections && left > 0) start(&players[known++]);
    if (one->step + 1 < one->part->count) {
        enter(one, one->part, one->step + 1);
        return 1;
    }
    if (one->part == &closing) return 0;
    /* A new connection has reserved its only round before it was made. */
    int again = fresh ? one->part == &opening : take_round(one);
    enter(one, again ? &round_ : &closing, 0);
    return 1;
}

static void start(struct player *one) {
    int on = 1;
    memset(one, 0, sizeof *one);
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (one->fd < 0) die("no descriptors");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fresh) take_round(one);
    left -= closing.messages; /* what it will say at its end, whatever comes between */
    one->since = seconds();
    if (connect(one->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) die(strerror(errno));
    playing++;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &event);
    enter(one, &opening, 0);
}

static void hear(struct player *one) {
    static char input[1 << 16];
    for (;;) {
        ssize_t size = recv(one->fd, input, sizeof input, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) {
            stop(one, 1);
            return;
        }
        for (ssize_t place = 0; place < size; place++) {
            if (input[place] != '\n') {
                if (one->column < 4) one->code[one->column++] = input[place];
                continue;
            }
            int last = !(one->column == 4 && one->code[3] == '-');
            one->column = 0;
            if (!last) continue;
            if (one->code[0] != '2' && one->code[0] != '3') {
                if (errors < 3) fprintf(stderr, "player: a reply %.3s\n", one->code);
                stop(one, 1);
                return;
            }
            if (--one->waiting == 0 && !advance(one)) {
                stop(one, 0);
                return;
            }
        }
        if (size < (ssize_t)sizeof input) return;
    }
}

static int by_value(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static double quantile(double part) {
    return latency_count ? latencies[(long)(part * (latency_count - 1))] * 1e3 : 0;
}

int main(int count, char **arguments) {
    if (count != 5) die("usage: player HOST PORT CONNECTIONS MESSAGES < SCRIPT");
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(arguments[2]));
    if (inet_pton(AF_INET, arguments[1], &server.sin_addr) != 1) die("not an IPv4 address");
    connections = atoi(arguments[3]);
    left = atol(arguments[4]);
    signal(SIGPIPE, SIG_IGN);
    read_script();
    latencies = malloc(sizeof *latencies * (left + 2 * connections + 2));
    players = calloc(connections, sizeof *players);
    poller = epoll_create1(0);
    double began = seconds();
    while (known < connections && known < FIRST && left > 0) start(&players[known++]);
    while (playing) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, PATIENCE_MS);
        if (!ready) die("the server does not answer");
        for (int number = 0; number < ready; number++) {
            struct player *one = events[number].data.ptr;
            if (one->fd < 0) continue;
            if (events[number].events & EPOLLOUT) push(one);
            if (events[number].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) hear(one);
        }
    }
    double wall = seconds() - began;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    qsort(latencies, latency_count, sizeof *latencies, by_value);
    printf("{\"messages\": %ld, \"errors\": %ld, \"seconds\": %.6f, \"cpu\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n",
           taken, errors, wall,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6,
           quantile(0.5), quantile(0.99));
    return errors != 0;
}
