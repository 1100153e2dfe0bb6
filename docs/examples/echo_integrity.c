/* A stream has no message boundaries: ten echoes of 512 KiB, read in one of three ways.
 *
 *     cc -O2 -pthread -o echo_integrity echo_integrity.c
 *     ./echo_integrity HOST PORT once|loop|waitall
 *
 * Sends 512 KiB ten times to an echo server and compares what comes back. The exit status
 * is the number of rounds that were wrong, or 100 if something failed.
 */

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIZE = 512 * 1024, ROUNDS = 10, FAILED = 100 };

static unsigned char sent[SIZE], got[SIZE];
static int fd;

static void die(const char *what)
{
    perror(what);
    exit(FAILED);
}

/* One blocking send() takes all of it, however small the buffers are. */
static void *send_all(void *unused)
{
    ssize_t n = send(fd, sent, SIZE, 0);

    if (n != SIZE)
        die("send");
    return unused;
}

static size_t receive(unsigned char *buf, size_t size, int flags)
{
    ssize_t n = recv(fd, buf, size, flags);

    if (n <= 0)
        die("recv");
    return n;
}

static size_t receive_all(unsigned char *buf, size_t size)
{
    size_t done = 0;

    while (done < size)
        done += receive(buf + done, size - done, 0);
    return done;
}

/* 1 if what was read is what was sent. */
static int one_round(int number, const char *how)
{
    pthread_t sender;
    size_t n;
    int right;

    srand(number + 1);
    for (size_t i = 0; i < SIZE; i++)
        sent[i] = rand();
    memset(got, 0, SIZE);
    if (pthread_create(&sender, NULL, send_all, NULL))
        die("pthread_create");
    if (!strcmp(how, "once"))
        n = receive(got, SIZE, 0);
    else if (!strcmp(how, "loop"))
        n = receive_all(got, SIZE);
    else
        n = receive(got, SIZE, MSG_WAITALL);
    right = n == SIZE && !memcmp(sent, got, SIZE);
    printf("round %d: read %zu of %d bytes: %s\n", number, n, SIZE, right ? "right" : "wrong");
    receive_all(got, SIZE - n); /* what is left would be taken for the next round's */
    pthread_join(sender, NULL);
    return right;
}

int main(int argc, char **argv)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    int wrong = 0, size = 128 * 1024; /* of the receive buffer: it never holds a whole echo */

    if (argc != 4 || inet_pton(AF_INET, argv[1], &addr.sin_addr) != 1) {
        fprintf(stderr, "usage: %s HOST PORT once|loop|waitall\n", argv[0]);
        return FAILED;
    }
    addr.sin_port = htons(atoi(argv[2]));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size))
        die("socket");
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr))
        die("connect");
    for (int i = 0; i < ROUNDS; i++)
        wrong += !one_round(i, argv[3]);
    close(fd);
    return wrong;
}
