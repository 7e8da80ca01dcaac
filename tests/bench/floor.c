/* The floor: what relaying bytes costs when nobody reads them.
 *
 * floor LISTEN BACKEND [LISTEN BACKEND]...   (ports on 127.0.0.1)
 *
 * One thread, one level-triggered epoll. Each client gets one backend connection for life. An event costs one recv and one
 * send; only a short send stores the remainder and waits for room. Either side's end closes both: the benchmark needs no
 * half-close. The harness ends it with SIGTERM (or its own death, by the parent-death signal).
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
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, EVENTS = 256, LISTENERS = 4, BACKLOG = 4096 };

struct side {
	int fd;
	int backend_port;	/* only of a listener: where its clients go */
	int ended;
	struct side *other;	/* NULL: a listener */
	struct side *next_ended;
	char *rest;		/* what `other` sent and this side had no room for */
	size_t rest_at, rest_len;
};

static int ep;
static char buffer[BUFFER];
static struct side *ended;	/* freed after the batch: a later event of the batch may still name them */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static void watch(int op, struct side *s, unsigned events)
{
	struct epoll_event e = { .events = events, .data.ptr = s };
	if (epoll_ctl(ep, op, s->fd, &e) < 0)
		die("epoll_ctl");
}

static struct side *new_side(int fd)
{
	struct side *s = calloc(1, sizeof *s);
	if (!s)
		die("calloc");
	s->fd = fd;
	return s;
}

static void listen_on(int port, int backend_port)
{
	struct sockaddr_in a = loopback(port);
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
		die("socket");
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, BACKLOG) < 0)
		die("listen");
	struct side *s = new_side(fd);
	s->backend_port = backend_port;
	watch(EPOLL_CTL_ADD, s, EPOLLIN);
}

static void accept_one(struct side *listener)
{
	int one = 1, front = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);
	if (front < 0)
		return;
	struct sockaddr_in a = loopback(listener->backend_port);
	int back = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (back < 0 || (connect(back, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)) {
		perror("backend");
		close(back);
		close(front);
		return;
	}
	setsockopt(front, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(back, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	struct side *f = new_side(front), *b = new_side(back);
	f->other = b;
	b->other = f;
	watch(EPOLL_CTL_ADD, f, EPOLLIN);
	watch(EPOLL_CTL_ADD, b, EPOLLIN);
}

static void end_both(struct side *s)
{
	struct side *both[2] = { s, s->other };
	for (int i = 0; i < 2; i++) {
		close(both[i]->fd);
		both[i]->ended = 1;
		both[i]->next_ended = ended;
		ended = both[i];
	}
}

/* Sends what waits for `s`; once it is gone `s->other` is read again. */
static void drain(struct side *s)
{
	ssize_t n = send(s->fd, s->rest + s->rest_at, s->rest_len - s->rest_at, MSG_NOSIGNAL);
	if (n < 0) {
		if (errno != EAGAIN)
			end_both(s);
		return;
	}
	s->rest_at += (size_t)n;
	if (s->rest_at < s->rest_len)
		return;
	free(s->rest);
	s->rest = NULL;
	watch(EPOLL_CTL_MOD, s, s->other->rest ? 0 : EPOLLIN);
	watch(EPOLL_CTL_MOD, s->other, EPOLLIN | (s->other->rest ? EPOLLOUT : 0));
}

static void relay(struct side *s)
{
	struct side *to = s->other;
	if (to->rest)	/* HUP or ERR while the other side has no room yet */
		return;
	ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		end_both(s);
		return;
	}
	ssize_t sent = send(to->fd, buffer, (size_t)n, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN) {
		end_both(s);
		return;
	}
	if (sent < 0)
		sent = 0;
	if (sent == n)
		return;
	to->rest_at = 0;
	to->rest_len = (size_t)(n - sent);
	to->rest = malloc(to->rest_len);
	if (!to->rest)
		die("malloc");
	memcpy(to->rest, buffer + sent, to->rest_len);
	watch(EPOLL_CTL_MOD, to, EPOLLOUT | (s->rest ? 0 : EPOLLIN));
	watch(EPOLL_CTL_MOD, s, s->rest ? EPOLLOUT : 0);
}

static void turn(void)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(ep, events, EVENTS, -1);
	if (n < 0 && errno != EINTR)
		die("epoll_wait");
	for (int i = 0; i < n; i++) {
		struct side *s = events[i].data.ptr;
		if (!s->other) {
			accept_one(s);
			continue;
		}
		if (!s->ended && s->rest && (events[i].events & (EPOLLOUT | EPOLLERR)))
			drain(s);
		if (!s->ended && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
			relay(s);
	}
	while (ended) {
		struct side *s = ended;
		ended = s->next_ended;
		free(s->rest);
		free(s);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc % 2 == 0 || argc > 1 + 2 * LISTENERS) {
		fprintf(stderr, "usage: floor LISTEN BACKEND [LISTEN BACKEND]...\n");
		return 2;
	}
	ep = epoll_create1(0);
	if (ep < 0)
		die("epoll_create1");
	for (int i = 1; i < argc; i += 2)
		listen_on(atoi(argv[i]), atoi(argv[i + 1]));
	for (;;)
		turn();
}
