/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A kernel that refuses what it offers elsewhere, or answers what no kernel answers: LD_PRELOAD=this. Words in REFUSE:
 *
 *   headers      a TUN has no virtio-net headers (TUNSETIFF: EINVAL)
 *   offloads     it leaves nothing undone, and says so (TUNSETOFFLOAD: EINVAL)
 *   udp-offload  no UDP segments at the TUN, as before Linux 6.2
 *   joined       it takes no packets in one piece, although it said so (EINVAL)
 *   rows         no rows of datagrams on this interface (UDP_SEGMENT: EIO)
 *   row-length   none whose datagrams have more than 1000 bytes (EINVAL)
 *   gro          no datagrams in one piece (UDP_GRO: ENOPROTOOPT)
 *
 * Each says once on standard error that it was met. While the file named by ABSURD_RECEIVE (ABSURD_SEND) exists,
 * recvmmsg (sendmmsg) claims to have done more than it was asked for, which is a bug to whoever relies on it.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define ROWS 103 /* UDP_SEGMENT */
#define GRO 104  /* UDP_GRO */
#define ABSURD 1000

static int refused(const char *word, int error)
{
    const char *words = getenv("REFUSE"), *found = words ? strstr(words, word) : NULL;
    static char told[16][16];
    size_t size = strlen(word);
    if (!found || (found[size] && found[size] != ',') || (found != words && found[-1] != ','))
        return 0;
    for (int n = 0; n < 16; n++) {
        if (!strcmp(told[n], word))
            break;
        if (!told[n][0]) {
            memcpy(told[n], word, size + 1);
            fprintf(stderr, "refused: %s\n", word);
            break;
        }
    }
    errno = error;
    return 1;
}

static int absurd(const char *name)
{
    const char *file = getenv(name);
    return file && !access(file, F_OK);
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, void *);
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (!real)
        real = dlsym(RTLD_NEXT, "ioctl");
    request &= 0xFFFFFFFF;
    if (request == TUNSETIFF && ((struct ifreq *)argument)->ifr_flags & IFF_VNET_HDR && refused("headers", EINVAL))
        return -1;
    if (request == TUNSETOFFLOAD && refused("offloads", EINVAL))
        return -1;
    if (request == TUNSETOFFLOAD && (unsigned long)argument & 0x60 && refused("udp-offload", EINVAL))
        return -1;
    return real(fd, request, argument);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    static int (*real)(int, int, int, const void *, socklen_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "setsockopt");
    if (level == IPPROTO_UDP && name == GRO && refused("gro", ENOPROTOOPT))
        return -1;
    return real(fd, level, name, value, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    static ssize_t (*real)(int, const struct iovec *, int);
    struct ifreq request;
    if (!real)
        real = dlsym(RTLD_NEXT, "writev");
    if (!ioctl(fd, TUNGETIFF, &request) && count > 0 && parts[0].iov_len >= 10 && ((char *)parts[0].iov_base)[1] &&
        refused("joined", EINVAL))
        return -1;
    return real(fd, parts, count);
}

static int is_row(struct msghdr *message, int longest)
{
    struct cmsghdr *first = CMSG_FIRSTHDR(message);
    unsigned short size;
    if (!first || first->cmsg_level != IPPROTO_UDP || first->cmsg_type != ROWS)
        return 0;
    memcpy(&size, CMSG_DATA(first), sizeof size);
    return size > longest;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    static int (*real)(int, struct mmsghdr *, unsigned int, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendmmsg");
    for (unsigned int n = 0; n < count; n++)
        if ((is_row(&messages[n].msg_hdr, 0) && refused("rows", EIO)) ||
            (is_row(&messages[n].msg_hdr, 1000) && refused("row-length", EINVAL))) {
            if (!n)
                return -1;
            count = n; /* those before it are sent, and it is the first of the next call */
        }
    int sent = real(fd, messages, count, flags);
    return sent > 0 && absurd("ABSURD_SEND") ? ABSURD : sent;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    static int (*real)(int, struct mmsghdr *, unsigned int, int, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "recvmmsg");
    int got = real(fd, messages, count, flags, timeout);
    return got > 0 && absurd("ABSURD_RECEIVE") ? ABSURD : got;
}
