// SPDX-License-Identifier: Apache-2.0
//
// Connecting and the small things: a blocking connection that is logged in, PING, SCRIPT LOAD, clocks.

#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

double reference_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double reference_thread_cpu(void) {
    struct rusage usage;
#ifdef RUSAGE_THREAD
    getrusage(RUSAGE_THREAD, &usage);
#else
    getrusage(RUSAGE_SELF, &usage);
#endif
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void reference_nonce(char text[17]) {
    // By hand, because snprintf alone would take a tenth of the loop's time. The start is random enough that two
    // processes at the same Redis do not meet.
    static _Thread_local uint64_t counter = 0;
    if (counter == 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        counter = ((uint64_t)getpid() << 44) ^ ((uint64_t)now.tv_sec << 30) ^ (uint64_t)now.tv_nsec;
    }
    counter += 1;
    uint64_t rest = counter;
    for (int index = 15; index >= 0; index -= 1) {
        text[index] = "0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    text[16] = 0;
}

/// Sends a command made of `arguments` and frees its answer. Returns 0 if it was not an error.
static int expect_success(redisContext *context, const char *what, int count, const char **arguments, char *problem) {
    redisReply *reply = redisCommandArgv(context, count, arguments, NULL);
    if (reply == NULL) {
        snprintf(problem, problem_size, "%s: %s", what, context->errstr);
        return -1;
    }
    int failed = reply->type == REDIS_REPLY_ERROR;
    if (failed) snprintf(problem, problem_size, "%s: %s", what, reply->str);
    freeReplyObject(reply);
    return failed ? -1 : 0;
}

redisContext *reference_connect(const reference_address *address, char *problem) {
    problem[0] = 0;
    struct timeval limit = {.tv_sec = 2, .tv_usec = 0};
    redisContext *context = address->unix_path != NULL
        ? redisConnectUnixWithTimeout(address->unix_path, limit)
        : redisConnectWithTimeout(address->host, address->port, limit);
    if (context == NULL || context->err != 0) {
        snprintf(problem, problem_size, "cannot connect to Redis: %s", context != NULL ? context->errstr : "no memory");
        if (context != NULL) redisFree(context);
        return NULL;
    }
    struct timeval patience = {.tv_sec = 10, .tv_usec = 0};
    redisSetTimeout(context, patience);
    int failed = 0;
    if (address->password != NULL) {
        const char *login[] = {"AUTH", address->password, NULL};
        const char *named[] = {"AUTH", address->username, address->password};
        failed = address->username != NULL ? expect_success(context, "AUTH", 3, named, problem)
                                           : expect_success(context, "AUTH", 2, login, problem);
    }
    if (!failed && address->database != 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", address->database);
        const char *choose[] = {"SELECT", number};
        failed = expect_success(context, "SELECT", 2, choose, problem);
    }
    if (failed) {
        redisFree(context);
        return NULL;
    }
    return context;
}

int reference_ping(const reference_address *address, uint64_t *nanoseconds, int count, char *problem) {
    redisContext *context = reference_connect(address, problem);
    if (context == NULL) return -1;
    int failed = 0;
    for (int index = 0; index < count && !failed; index += 1) {
        double start = reference_now();
        redisReply *reply = redisCommand(context, "PING");
        nanoseconds[index] = (uint64_t)((reference_now() - start) * 1e9);
        if (reply == NULL || reply->type != REDIS_REPLY_STATUS || strcmp(reply->str, "PONG") != 0) {
            snprintf(problem, problem_size, "PING was not answered with PONG: %s", context->errstr);
            failed = -1;
        }
        if (reply != NULL) freeReplyObject(reply);
    }
    redisFree(context);
    return failed;
}

int reference_load_script(const reference_address *address, const char *source, char sha[41], char *problem) {
    redisContext *context = reference_connect(address, problem);
    if (context == NULL) return -1;
    int failed = 0;
    redisReply *reply = redisCommand(context, "SCRIPT LOAD %s", source);
    if (reply != NULL && reply->type == REDIS_REPLY_STRING && reply->len == 40) {
        memcpy(sha, reply->str, 41);
    } else {
        snprintf(problem, problem_size, "SCRIPT LOAD: %s", reply != NULL && reply->str ? reply->str : context->errstr);
        failed = -1;
    }
    if (reply != NULL) freeReplyObject(reply);
    redisFree(context);
    return failed;
}
