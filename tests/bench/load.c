/* Load that wrk cannot make, from one thread and one epoll, on 127.0.0.1.
 *
 * load echo   PORT CONNS SECONDS              1 KiB round trips over TCP
 * load stream PORT CONNS SECONDS              10 MiB per request over TCP
 * load body   PORT CONNS SECONDS PATH BYTES   GET over kept-alive HTTP connections
 * load new    PORT CONNS SECONDS PATH BYTES   GET, a new connection each, CONNS at a time
 * load rate   PORT CONNS SECONDS PATH BYTES N GET, N in each second, come what may, over kept-alive connections; how long one
 *                                             took counts from the moment when it was due, whether or not it could be sent then
 * load idle   PORT CONNS SECONDS PATH BYTES   opens CONNS connections, one GET on each, and holds them until stdin ends;
 *                                             each line on stdin is answered with the number still open
 *
 * Every answer must have the status 200, the announced length and the pattern 'a' + offset % 26, looked at in the first and
 * last byte of each piece received. Prints one line: done= bytes= errors= lost= p50_us= p99_us= us=, where
 * lost are those that were due and not answered. An alarm bounds its life.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 1024, STREAM = 10 * 1024 * 1024, PERIOD = 26 };
enum { EVENTS = 256, HEAD_MAX = 2048, PIECE = 256 * 1024, SLOWEST_US = 10 * 1000 * 1000 };
enum { ERRORS_MAX = 1000, IDLE_AT_ONCE = 64, CONNS_MAX = 60000, SECONDS_MAX = 600, GRACE_S = 30 };
enum { RATE_MAX = 100000, LATE_US = 2 * 1000 * 1000 };

struct conn {
	int fd;
	int in_body;
	size_t sent;		/* bytes of the request */
	size_t head_len;
	uint64_t got;		/* bytes of the body */
	uint64_t start_us;
	struct conn *next_free;
	char head[HEAD_MAX];
};

static struct {
	const char *mode;
	int port, conns, seconds;
	int http, close_each, idle;
	uint64_t rate;	/* per second; 0: as fast as answers come */
	uint64_t answer_bytes;
	char request[MESSAGE];
	size_t request_len;
} want;

static int ep;
static char piece[PIECE + 1];
static uint64_t done, bytes, errors, lost, opened, now_us;
static struct conn *free_conns;	/* of `rate`: those that wait for the next request */
static uint32_t slower[SLOWEST_US];	/* answers by whole microseconds */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t clock_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void watch(int op, struct conn *c, unsigned events)
{
	struct epoll_event e = { .events = events, .data.ptr = c };
	if (epoll_ctl(ep, op, c->fd, &e) < 0)
		die("epoll_ctl");
}

static void count_error(const char *what)
{
	if (++errors <= 3)
		fprintf(stderr, "load %s: %s\n", want.mode, what);
	if (errors >= ERRORS_MAX) {
		fprintf(stderr, "load %s: too many errors\n", want.mode);
		exit(1);
	}
}

/* 1: all sent, 0: no room or not connected yet, -1: failed. */
static int send_request(struct conn *c)
{
	ssize_t n = send(c->fd, want.request + c->sent, want.request_len - c->sent, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == ENOTCONN ? 0 : -1;
	c->sent += (size_t)n;
	return c->sent == want.request_len;
}

static void begin(struct conn *c)
{
	c->sent = c->head_len = 0;
	c->got = 0;
	c->in_body = !want.http;
	c->start_us = clock_us();
}

static void open_conn(struct conn *c)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)want.port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int one = 1;
	begin(c);
	opened++;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		die("connect");
	/* Over loopback the connection usually stands already. A refusal shows as an event. */
	watch(EPOLL_CTL_ADD, c, send_request(c) == 1 ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

static void reopen(struct conn *c)
{
	close(c->fd);
	open_conn(c);
}

static void fail(struct conn *c, const char *what)
{
	count_error(what);
	reopen(c);
}

static void ask(struct conn *c)
{
	begin(c);
	int state = send_request(c);
	if (state < 0)
		fail(c, "send");
	else if (state == 0)
		watch(EPOLL_CTL_MOD, c, EPOLLIN | EPOLLOUT);
}

static void completed(struct conn *c)
{
	uint64_t took = clock_us() - c->start_us;
	slower[took < SLOWEST_US ? took : SLOWEST_US - 1]++;
	done++;
}

/* The answer is whole and the connection is kept: ask again, unless it is to idle. */
static void next_request(struct conn *c)
{
	completed(c);
	if (want.idle) {
		watch(EPOLL_CTL_DEL, c, 0);
		return;
	}
	if (want.rate) {
		c->next_free = free_conns;
		free_conns = c;
		return;
	}
	ask(c);
}

/* Takes head bytes off what was received. Returns how many of them, or -1 when the head is not what we want. */
static ssize_t take_head(struct conn *c, size_t n)
{
	size_t room = HEAD_MAX - 1 - c->head_len, before = c->head_len;
	size_t taken = n < room ? n : room;
	memcpy(c->head + c->head_len, piece, taken);
	c->head_len += taken;
	c->head[c->head_len] = 0;
	char *end = strstr(c->head, "\r\n\r\n");
	if (!end)
		return taken == n ? (ssize_t)n : -1;
	end[2] = 0;
	char *length = strcasestr(c->head, "\r\ncontent-length:");
	if (strncmp(c->head, "HTTP/1.1 200", 12) != 0 || !length)
		return -1;
	if (strtoull(length + strlen("\r\ncontent-length:"), NULL, 10) != want.answer_bytes)
		return -1;
	c->in_body = 1;
	return end + 4 - c->head - (ssize_t)before;
}

static int right_bytes(const struct conn *c, const char *body, size_t n)
{
	return c->got + n <= want.answer_bytes && body[0] == 'a' + (char)(c->got % PERIOD)
		&& body[n - 1] == 'a' + (char)((c->got + n - 1) % PERIOD);
}

static void receive(struct conn *c)
{
	ssize_t n = recv(c->fd, piece, PIECE, 0), skip = 0;
	if (n < 0 && errno == EAGAIN)
		return;
	if (n == 0 && want.close_each && c->in_body && c->got == want.answer_bytes) {
		completed(c);
		reopen(c);
		return;
	}
	if (n <= 0) {
		fail(c, n < 0 ? strerror(errno) : "closed early");
		return;
	}
	if (!c->in_body)
		skip = take_head(c, (size_t)n);
	if (skip < 0) {
		fail(c, "not the expected status or length");
		return;
	}
	size_t body = (size_t)(n - skip);
	if (body && !right_bytes(c, piece + skip, body)) {
		fail(c, "wrong bytes");
		return;
	}
	c->got += body;
	bytes += body;
	if (c->in_body && c->got == want.answer_bytes && !want.close_each)
		next_request(c);
}

static void on_event(struct conn *c, unsigned events)
{
	if ((events & EPOLLOUT) && c->sent < want.request_len) {
		int state = send_request(c);
		if (state < 0) {
			fail(c, strerror(errno));
			return;
		}
		if (state == 1)
			watch(EPOLL_CTL_MOD, c, EPOLLIN);
	}
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		receive(c);
}

static void turn(int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(ep, events, EVENTS, timeout_ms);
	if (n < 0 && errno != EINTR)
		die("epoll_wait");
	for (int i = 0; i < n; i++)
		on_event(events[i].data.ptr, events[i].events);
	now_us = clock_us();
}

static uint64_t percentile_us(unsigned percent)
{
	uint64_t seen = 0, rank = done * percent / 100;
	for (size_t us = 0; us < SLOWEST_US; us++)
		if ((seen += slower[us]) > rank)
			return us;
	return 0;
}

static void print_result(uint64_t took_us)
{
	printf("done=%llu bytes=%llu errors=%llu lost=%llu p50_us=%llu p99_us=%llu us=%llu\n", (unsigned long long)done,
	       (unsigned long long)bytes, (unsigned long long)errors, (unsigned long long)lost, (unsigned long long)percentile_us(50),
	       (unsigned long long)percentile_us(99), (unsigned long long)took_us);
	fflush(stdout);
}

static int count_open(const struct conn *conns)
{
	int alive = 0;
	char byte;
	for (int i = 0; i < want.conns; i++)
		alive += recv(conns[i].fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
	return alive;
}

static void run_idle(struct conn *conns, uint64_t start_us)
{
	char line[16];
	while (done < (uint64_t)want.conns && now_us < start_us + (uint64_t)want.seconds * 1000000) {
		while (opened - errors < (uint64_t)want.conns && opened - errors - done < IDLE_AT_ONCE) {
			open_conn(&conns[opened - errors]);
		}
		turn(100);
	}
	print_result(clock_us() - start_us);
	while (fgets(line, sizeof line, stdin)) {
		printf("open=%d\n", count_open(conns));
		fflush(stdout);
	}
}

static void wait_until(uint64_t due_us)
{
	struct pollfd p = { .fd = ep, .events = POLLIN };
	uint64_t us = due_us > now_us ? due_us - now_us : 0;
	struct timespec t = { .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000) };
	if (ppoll(&p, 1, &t, NULL) < 0 && errno != EINTR)
		die("ppoll");
	turn(0);
}

/* Every connection has answered once, and is not measured by that. Then the requests, each when it is due. */
static void run_rate(struct conn *conns)
{
	uint64_t asked = 0, all = want.rate * (uint64_t)want.seconds;
	prctl(PR_SET_TIMERSLACK, 1);
	for (int i = 0; i < want.conns; i++)
		open_conn(&conns[i]);
	for (uint64_t limit_us = now_us + LATE_US; done < (uint64_t)want.conns && now_us < limit_us;)
		wait_until(limit_us);
	done = bytes = 0;
	memset(slower, 0, sizeof slower);
	uint64_t start_us = now_us = clock_us(), end_us = start_us + (uint64_t)want.seconds * 1000000;
	while (done + errors < all && now_us < end_us + LATE_US) {
		uint64_t due_us = start_us + asked * 1000000 / want.rate;
		if (asked == all || !free_conns || due_us > now_us) {
			wait_until(asked < all && free_conns ? due_us : end_us + LATE_US);
			continue;
		}
		struct conn *c = free_conns;
		free_conns = c->next_free;
		ask(c);
		c->start_us = due_us;
		asked++;
	}
	lost = all - done;
	print_result(clock_us() - start_us);
}

static void read_arguments(int argc, char **argv)
{
	if (argc < 5)
		goto usage;
	want.mode = argv[1];
	want.port = atoi(argv[2]);
	want.conns = atoi(argv[3]);
	want.seconds = atoi(argv[4]);
	if (want.conns < 1 || want.conns > CONNS_MAX || want.seconds < 1 || want.seconds > SECONDS_MAX)
		goto usage;
	int stream = !strcmp(want.mode, "stream");
	want.close_each = !strcmp(want.mode, "new");
	want.idle = !strcmp(want.mode, "idle");
	want.http = want.close_each || want.idle || !strcmp(want.mode, "body");
	if (!strcmp(want.mode, "rate") && argc == 8) {
		long rate = atol(argv[7]);
		if (rate < 1 || rate > RATE_MAX)
			goto usage;
		want.rate = (uint64_t)rate;
		want.http = 1;
	}
	if (want.http) {
		if (argc != 7 + !!want.rate)
			goto usage;
		want.answer_bytes = strtoull(argv[6], NULL, 10);
		want.request_len = (size_t)snprintf(want.request, sizeof want.request, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n",
						    argv[5], want.close_each ? "Connection: close\r\n" : "");
		return;
	}
	if (argc != 5 || (!stream && strcmp(want.mode, "echo")))
		goto usage;
	want.request_len = MESSAGE;
	want.answer_bytes = stream ? STREAM : MESSAGE;
	for (int i = 0; i < MESSAGE; i++)
		want.request[i] = (char)('a' + i % PERIOD);
	if (stream)
		want.request[0] = 'S';
	return;
usage:
	fprintf(stderr, "usage: load echo|stream PORT CONNS SECONDS\n       load body|new|idle PORT CONNS SECONDS PATH BYTES\n"
			"       load rate PORT CONNS SECONDS PATH BYTES N\n");
	exit(2);
}

int main(int argc, char **argv)
{
	read_arguments(argc, argv);
	alarm((unsigned)(want.seconds + GRACE_S));
	ep = epoll_create1(0);
	struct conn *conns = calloc((size_t)want.conns, sizeof *conns);
	if (ep < 0 || !conns)
		die("start");
	uint64_t start_us = now_us = clock_us();
	if (want.idle) {
		run_idle(conns, start_us);
		return 0;
	}
	if (want.rate) {
		run_rate(conns);
		return errors != 0;
	}
	for (int i = 0; i < want.conns; i++)
		open_conn(&conns[i]);
	while (now_us < start_us + (uint64_t)want.seconds * 1000000)
		turn(100);
	print_result(clock_us() - start_us);
	return errors != 0;
}
