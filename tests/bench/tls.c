/* Load over TLS, from one thread and one epoll, on 127.0.0.1. The certificate is not looked at.
 *
 * tls keep   PORT CONNS SECONDS PATH BYTES   GET over kept-alive connections
 * tls full   PORT CONNS SECONDS PATH BYTES   GET, a new connection with a whole handshake each, CONNS at a time
 * tls resume PORT CONNS SECONDS PATH BYTES   the same, with the session of the connection before
 * tls idle   PORT CONNS SECONDS PATH BYTES   opens CONNS connections, one GET on each, and holds them until stdin ends;
 *                                            each line on stdin is answered with the number still open
 *
 * Every answer must have the status 200, the announced length and end with the right byte of the pattern. Prints one line:
 * done= bytes= errors= lost= p50_us= p99_us= us=. A handshake that is resumed where it should not be, or not where it
 * should, is an error. An alarm bounds its life.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { PERIOD = 26, EVENTS = 256, HEAD_MAX = 2048, PIECE = 64 * 1024, SLOWEST_US = 10 * 1000 * 1000 };
enum { ERRORS_MAX = 1000, IDLE_AT_ONCE = 32, CONNS_MAX = 60000, SECONDS_MAX = 600, GRACE_S = 30 };

struct conn {
	int fd, shaken, sent, in_body, settled;
	SSL *ssl;
	SSL_SESSION *session;
	size_t head_len;
	uint64_t got, start_us;
	char head[HEAD_MAX];
};

static struct {
	const char *mode;
	int port, conns, seconds, fresh, resume, idle;
	uint64_t answer_bytes;
	char request[1024];
	int request_len;
} want;

static int ep;
static SSL_CTX *context;
static char piece[PIECE];
static uint64_t done, bytes, errors, opened, end_us;
static uint32_t slower[SLOWEST_US];

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
		fprintf(stderr, "tls %s: %s\n", want.mode, what);
	if (errors >= ERRORS_MAX) {
		fprintf(stderr, "tls %s: too many errors\n", want.mode);
		exit(1);
	}
}

static void begin(struct conn *c)
{
	c->sent = c->in_body = 0;
	c->head_len = 0;
	c->got = 0;
	c->start_us = clock_us();
}

static void open_conn(struct conn *c)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)want.port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int one = 1;
	begin(c);
	c->shaken = c->settled = 0;
	opened++;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		die("connect");
	c->ssl = SSL_new(context);
	SSL_set_fd(c->ssl, c->fd);
	SSL_set_connect_state(c->ssl);
	SSL_set_tlsext_host_name(c->ssl, "localhost");
	if (want.resume && c->session)
		SSL_set_session(c->ssl, c->session);
	watch(EPOLL_CTL_ADD, c, EPOLLIN | EPOLLOUT);
}

static void close_conn(struct conn *c)
{
	/* Quietly, and yet a session that ended well. */
	SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(c->ssl);
	close(c->fd);
}

static void fail(struct conn *c, const char *what)
{
	count_error(what);
	close_conn(c);
	open_conn(c);
}

static void answered(struct conn *c)
{
	uint64_t us = clock_us() - c->start_us;
	slower[us < SLOWEST_US ? us : SLOWEST_US - 1]++;
	done++;
	bytes += want.answer_bytes;
	if (want.idle) {
		c->settled = 1;
		return;
	}
	if (!want.fresh) {
		begin(c);
		return;
	}
	if (want.resume) {
		SSL_SESSION_free(c->session);
		c->session = SSL_get1_session(c->ssl);
	}
	close_conn(c);
	open_conn(c);
}

/* 1: a whole head, 0: more is to come, -1: wrong. */
static int head_done(struct conn *c, size_t *body)
{
	char *end = memmem(c->head, c->head_len, "\r\n\r\n", 4);
	if (!end)
		return c->head_len < HEAD_MAX - 1 ? 0 : -1;
	*end = 0;
	char *length = strcasestr(c->head, "content-length: ");
	if (strncmp(c->head, "HTTP/1.1 200", 12) || !length || strtoull(length + 16, NULL, 10) != want.answer_bytes)
		return -1;
	*body = c->head_len - (size_t)(end + 4 - c->head);
	return 1;
}

static int take(struct conn *c, const char *at, size_t n)
{
	if (!c->in_body) {
		size_t room = HEAD_MAX - 1 - c->head_len, copied = n < room ? n : room, body = 0;
		memcpy(c->head + c->head_len, at, copied);
		c->head_len += copied;
		c->head[c->head_len] = 0;
		int whole = head_done(c, &body);
		if (whole <= 0)
			return whole;
		c->in_body = 1;
		body += n - copied;
		at += n - body;
		n = body;
	}
	c->got += n;
	if (c->got > want.answer_bytes)
		return -1;
	if (n && at[n - 1] != (char)('a' + (c->got - 1) % PERIOD))
		return -1;
	return c->got == want.answer_bytes;
}

static void go_on(struct conn *c)
{
	for (;;) {
		int n;
		if (!c->shaken) {
			n = SSL_do_handshake(c->ssl);
			if (n == 1) {
				c->shaken = 1;
				watch(EPOLL_CTL_MOD, c, EPOLLIN);
				if (SSL_session_reused(c->ssl) != (want.resume && c->session != NULL))
					count_error(want.resume ? "not resumed" : "resumed");
				continue;
			}
		} else if (!c->sent) {
			n = SSL_write(c->ssl, want.request, want.request_len);
			if (n > 0) {
				c->sent = 1;
				continue;
			}
		} else {
			n = SSL_read(c->ssl, piece, sizeof piece);
			if (n > 0) {
				int whole = c->settled ? -1 : take(c, piece, (size_t)n);
				if (whole < 0)
					return fail(c, "a wrong answer");
				if (whole) {
					answered(c);
					if (want.fresh)
						return;
				}
				continue;
			}
		}
		int why = SSL_get_error(c->ssl, n);
		if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
			return;
		if (c->settled) {
			epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
			opened--;
			return;
		}
		return fail(c, c->shaken ? "cut" : "no handshake");
	}
}

static uint64_t quantile(double share)
{
	uint64_t sum = 0, aim = (uint64_t)((double)done * share);
	for (uint64_t us = 0; us < SLOWEST_US; us++)
		if ((sum += slower[us]) > aim)
			return us;
	return 0;
}

static void serve(struct conn *conns, uint64_t start_us)
{
	struct epoll_event events[EVENTS];
	int next = 0, burst = want.idle ? IDLE_AT_ONCE : want.conns;
	while (clock_us() < end_us && !(want.idle && done == (uint64_t)want.conns)) {
		while (next < want.conns && (uint64_t)next < done + (uint64_t)burst)
			open_conn(&conns[next++]);
		int n = epoll_wait(ep, events, EVENTS, 100);
		for (int i = 0; i < n; i++)
			go_on(events[i].data.ptr);
	}
	printf("done=%llu bytes=%llu errors=%llu lost=0 p50_us=%llu p99_us=%llu us=%llu\n", (unsigned long long)done,
	       (unsigned long long)bytes, (unsigned long long)errors, (unsigned long long)quantile(0.5),
	       (unsigned long long)quantile(0.99), (unsigned long long)(clock_us() - start_us));
	fflush(stdout);
}

static void hold(void)
{
	struct epoll_event events[EVENTS];
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		int n;
		while ((n = epoll_wait(ep, events, EVENTS, 0)) > 0)
			for (int i = 0; i < n; i++)
				go_on(events[i].data.ptr);
		printf("open=%llu\n", (unsigned long long)opened);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: tls keep|full|resume|idle PORT CONNS SECONDS PATH BYTES\n");
		return 2;
	}
	want.mode = argv[1];
	want.port = atoi(argv[2]);
	want.conns = atoi(argv[3]);
	want.seconds = atoi(argv[4]);
	want.answer_bytes = strtoull(argv[6], NULL, 10);
	want.resume = !strcmp(argv[1], "resume");
	want.fresh = want.resume || !strcmp(argv[1], "full");
	want.idle = !strcmp(argv[1], "idle");
	if (want.conns < 1 || want.conns > CONNS_MAX || want.seconds < 1 || want.seconds > SECONDS_MAX)
		return 2;
	want.request_len = snprintf(want.request, sizeof want.request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[5]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	if (!want.idle)
		alarm((unsigned)(want.seconds + GRACE_S));
	context = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
	ep = epoll_create1(0);
	struct conn *conns = calloc((size_t)want.conns, sizeof *conns);
	if (!context || ep < 0 || !conns)
		die("start");
	uint64_t start_us = clock_us();
	end_us = start_us + (uint64_t)want.seconds * 1000000;
	serve(conns, start_us);
	if (want.idle)
		hold();
	return 0;
}
