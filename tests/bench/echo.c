/* The TCP backend: echoes, or is a source of bytes.
 *
 * echo PORT   (on 127.0.0.1)
 *
 * A message is 1 KiB. One that begins with 'S' is answered with 10 MiB of the pattern that load.c checks ('a' + offset % 26);
 * any other is echoed as it arrives. One thread, level-triggered epoll; a client that does not read makes us stop reading.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGE = 1024, STREAM = 10 * 1024 * 1024, EVENTS = 256, BACKLOG = 4096 };
enum { PERIOD = 26, CHUNK = PERIOD * 10240 };	/* a chunk holds whole periods: offset % CHUNK finds the place */

struct conn {
	int fd;
	int waits;		/* EPOLLOUT is asked for */
	size_t message_at;	/* bytes of the current message received */
	int streaming;
	size_t stream_at;
	size_t echo_at, echo_len;
	char echo[MESSAGE];
};

static int ep;
static char pattern[CHUNK];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void watch(int op, struct conn *c, unsigned events)
{
	struct epoll_event e = { .events = events, .data.ptr = c };
	if (epoll_ctl(ep, op, c->fd, &e) < 0)
		die("epoll_ctl");
}

/* Sends what is due. 1: all gone, 0: no room, -1: the connection failed. */
static int flush_out(struct conn *c)
{
	while (c->echo_at < c->echo_len || c->streaming) {
		const char *from = c->echo + c->echo_at;
		size_t len = c->echo_len - c->echo_at;
		if (c->streaming) {
			size_t left = STREAM - c->stream_at, at = c->stream_at % CHUNK;
			from = pattern + at;
			len = left < CHUNK - at ? left : CHUNK - at;
		}
		ssize_t n = send(c->fd, from, len, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		if (!c->streaming)
			c->echo_at += (size_t)n;
		else if ((c->stream_at += (size_t)n) == STREAM)
			c->streaming = 0;
	}
	c->echo_at = c->echo_len = 0;
	return 1;
}

/* One recv of at most what is missing of the message. 1: go on, -1: ended. */
static int take_in(struct conn *c)
{
	ssize_t n = recv(c->fd, c->echo, MESSAGE - c->message_at, 0);
	if (n < 0 && errno == EAGAIN)
		return 1;
	if (n <= 0)
		return -1;
	/* A stream request that arrives in pieces would be echoed from its second piece on: its client would see wrong bytes. */
	int asks_stream = c->message_at == 0 && c->echo[0] == 'S' && n == MESSAGE;
	c->message_at = (c->message_at + (size_t)n) % MESSAGE;
	c->streaming = asks_stream;
	c->stream_at = 0;
	c->echo_at = 0;
	c->echo_len = asks_stream ? 0 : (size_t)n;
	return 1;
}

static void serve(struct conn *c)
{
	int state = c->waits ? 1 : take_in(c);
	if (state > 0)
		state = flush_out(c);
	if (state < 0) {
		close(c->fd);
		free(c);
		return;
	}
	int waits = state == 0;
	if (waits != c->waits)
		watch(EPOLL_CTL_MOD, c, waits ? EPOLLOUT : EPOLLIN);
	c->waits = waits;
}

static void accept_one(int listener)
{
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	struct conn *c = calloc(1, sizeof *c);
	if (!c)
		die("calloc");
	c->fd = fd;
	watch(EPOLL_CTL_ADD, c, EPOLLIN);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: echo PORT\n");
		return 2;
	}
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
		die("socket");
	if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, BACKLOG) < 0)
		die("listen");
	for (size_t i = 0; i < sizeof pattern; i++)
		pattern[i] = (char)('a' + i % PERIOD);
	ep = epoll_create1(0);
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };
	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e) < 0)
		die("epoll");
	for (;;) {
		struct epoll_event events[EVENTS];
		int n = epoll_wait(ep, events, EVENTS, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++)
			if (events[i].data.ptr)
				serve(events[i].data.ptr);
			else
				accept_one(listener);
	}
}
