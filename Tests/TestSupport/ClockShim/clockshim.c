// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into redis-server, it moves the server's time of day by as many milliseconds as stand in the file named by
// CLOCKSHIM (8 bytes, little endian), which may change at any time. The monotonic clock is left alone, as a step of the
// system's clock leaves it. (libfaketime cannot be used: it allocates inside the allocator of redis-server.)

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset_ms;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("CLOCKSHIM");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) _exit(97);
    offset_ms = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    if (offset_ms == MAP_FAILED) _exit(98);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && offset_ms && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = time->tv_nsec + *offset_ms % 1000 * 1000000;
        time->tv_sec += *offset_ms / 1000;
        if (ns < 0) { ns += 1000000000; time->tv_sec--; }
        if (ns >= 1000000000) { ns -= 1000000000; time->tv_sec++; }
        time->tv_nsec = ns;
    }
    return (int)result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
