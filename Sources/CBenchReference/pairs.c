// SPDX-License-Identifier: Apache-2.0
//
// Acquire and release, over and over, as a good C programmer would have it with hiredis: arguments prepared once, only
// what changes is written again (the nonce, the fence), redisAsyncCommandArgv with known lengths, and a loop around
// one poll(). hiredis' async API queues what the callbacks of one read send and writes it at once, so N logical
// clients on one connection are pipelined by themselves: that is the pace our own automatic pipelining is held against.
//
// poll() and not epoll, libev or libuv: for a single descriptor it costs the same, the interest is an argument and
// not another system call, and it needs nothing else installed. The queue is written in the same turn it was filled,
// without a poll() between: hiredis' own adapters take a turn more, so this is the faster of the two yardsticks.

#include "internal.h"

#include <hiredis/async.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { maximum_arguments = 64, maximum_changing = 8, text_size = 256 };

/// One argument that differs from pair to pair.
struct changing {
    const char *template;
    int index;
    char text[text_size];
};

/// A command of one client, ready to be sent but for its changing arguments.
struct prepared {
    int count;
    const char *arguments[maximum_arguments];
    size_t lengths[maximum_arguments];
    int changing_count;
    struct changing changing[maximum_changing];
    char *owned[maximum_arguments];
    int owned_count;
};

struct run;

/// One logical client.
struct client {
    struct run *run;
    struct prepared acquire;
    struct prepared release;
    char nonce[17];
    char fence[24];
};

struct run {
    const reference_pair *pair;
    reference_result *result;
    redisAsyncContext *context;
    int wants_read;
    int wants_write;
    int stopping;
    int busy;
};

/// Copies `template` to `text` with its placeholders filled in. Returns the length, or 0 if it does not fit.
static size_t fill(const char *template, const char *number, const char *nonce, const char *fence, char *text) {
    size_t length = 0;
    while (*template != 0) {
        const char *value = NULL;
        if (*template == '{') {
            if (number != NULL && strncmp(template, "{client}", 8) == 0) {
                value = number;
                template += 8;
            } else if (nonce != NULL && strncmp(template, "{nonce}", 7) == 0) {
                value = nonce;
                template += 7;
            } else if (fence != NULL && strncmp(template, "{fence}", 7) == 0) {
                value = fence;
                template += 7;
            }
        }
        if (value == NULL) {
            if (length + 1 >= text_size) return 0;
            text[length++] = *template++;
        } else {
            size_t added = strlen(value);
            if (length + added >= text_size) return 0;
            memcpy(text + length, value, added);
            length += added;
        }
    }
    text[length] = 0;
    return length;
}

/// Makes a command ready for client `number`. Returns 0, or -1 when it is beyond the limits above.
static int prepare(struct prepared *prepared, const reference_command *command, int number) {
    char digits[16];
    snprintf(digits, sizeof digits, "%d", number);
    memset(prepared, 0, sizeof *prepared);
    for (int index = 0; command->arguments[index] != NULL; index += 1) {
        if (index >= maximum_arguments) return -1;
        const char *argument = command->arguments[index];
        if (strstr(argument, "{client}") != NULL) {
            char text[text_size];
            if (fill(argument, digits, NULL, NULL, text) == 0) return -1;
            argument = prepared->owned[prepared->owned_count++] = strdup(text);
        }
        prepared->count = index + 1;
        prepared->arguments[index] = argument;
        prepared->lengths[index] = strlen(argument);
        if (strstr(argument, "{nonce}") != NULL || strstr(argument, "{fence}") != NULL) {
            if (prepared->changing_count == maximum_changing) return -1;
            struct changing *changing = &prepared->changing[prepared->changing_count++];
            changing->template = argument;
            changing->index = index;
            prepared->arguments[index] = changing->text;
        }
    }
    return 0;
}

/// Writes the changing arguments for the client's present nonce and fence.
static int refresh(struct prepared *prepared, const struct client *client) {
    for (int index = 0; index < prepared->changing_count; index += 1) {
        struct changing *changing = &prepared->changing[index];
        size_t length = fill(changing->template, NULL, client->nonce, client->fence, changing->text);
        if (length == 0) return -1;
        prepared->lengths[changing->index] = length;
    }
    return 0;
}

static void discard(struct prepared *prepared) {
    for (int index = 0; index < prepared->owned_count; index += 1) free(prepared->owned[index]);
}

/// Whether the answer is the one that `command` must have; otherwise the result's problem says what came instead.
static int is_right(const reference_command *command, const redisReply *reply, reference_result *result) {
    if (result->problem[0] != 0) return 0;  // the first problem is the one to tell
    if (reply == NULL) {
        snprintf(result->problem, problem_size, "%s: the connection broke", command->arguments[0]);
        return 0;
    }
    char digits[24] = "";
    const char *text = reply->str;
    switch (reply->type) {
    case REDIS_REPLY_INTEGER:
        // The usual answer of a release, without printing a number.
        if (command->expected != NULL && command->expected[1] == 0 && reply->integer == command->expected[0] - '0') {
            return 1;
        }
        snprintf(digits, sizeof digits, "%lld", reply->integer);
        text = digits;
        break;
    case REDIS_REPLY_STRING:
        if (command->expected == NULL && reply->len > 0 && reply->len < 20
            && strspn(reply->str, "0123456789") == (size_t)reply->len) {
            return 1;
        }
        break;
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
        break;
    default:
        text = "an answer of another type";
    }
    if (command->expected != NULL && reply->type != REDIS_REPLY_ERROR && strcmp(text, command->expected) == 0) return 1;
    snprintf(result->problem, problem_size, "%s: expected %s, got %s", command->arguments[0],
             command->expected != NULL ? command->expected : "a fence", text);
    return 0;
}

/// Keeps the fence of a right answer to the acquire, for the release.
static void keep_fence(struct client *client, const redisReply *reply) {
    if (client->run->pair->acquire.expected == NULL) memcpy(client->fence, reply->str, (size_t)reply->len + 1);
}

// MARK: the async loop

static void acquired(redisAsyncContext *context, void *answer, void *data);
static void released(redisAsyncContext *context, void *answer, void *data);

static void send_acquire(struct client *client) {
    reference_nonce(client->nonce);
    struct prepared *command = &client->acquire;
    refresh(command, client);
    redisAsyncCommandArgv(client->run->context, acquired, client, command->count, command->arguments, command->lengths);
}

/// Ends the client's part; the run is over when no client is busy.
static void stop(struct client *client) {
    client->run->stopping = 1;
    client->run->busy -= 1;
}

static void acquired(redisAsyncContext *context, void *answer, void *data) {
    struct client *client = data;
    struct run *run = client->run;
    if (!is_right(&run->pair->acquire, answer, run->result)) {
        stop(client);
        return;
    }
    keep_fence(client, answer);
    struct prepared *command = &client->release;
    refresh(command, client);
    redisAsyncCommandArgv(context, released, client, command->count, command->arguments, command->lengths);
}

static void released(redisAsyncContext *context, void *answer, void *data) {
    (void)context;
    struct client *client = data;
    struct run *run = client->run;
    if (!is_right(&run->pair->release, answer, run->result)) {
        stop(client);
        return;
    }
    run->result->pairs += 1;
    if (run->stopping) {
        stop(client);
    } else {
        send_acquire(client);
    }
}

static void add_read(void *data) { ((struct run *)data)->wants_read = 1; }
static void del_read(void *data) { ((struct run *)data)->wants_read = 0; }
static void add_write(void *data) { ((struct run *)data)->wants_write = 1; }
static void del_write(void *data) { ((struct run *)data)->wants_write = 0; }

/// hiredis frees the context by itself when the connection breaks; nobody may touch it after that.
static void forget(void *data) { ((struct run *)data)->context = NULL; }

/// Connected and logged in by hiredis' blocking API, then handed over to the async one: the log-in is the same code
/// for all, and is not measured.
static redisAsyncContext *connect_async(const reference_address *address, struct run *run) {
    redisContext *check = reference_connect(address, run->result->problem);
    if (check == NULL) return NULL;
    redisFree(check);
    redisAsyncContext *context = address->unix_path != NULL ? redisAsyncConnectUnix(address->unix_path)
                                                            : redisAsyncConnect(address->host, address->port);
    if (context == NULL || context->err != 0) {
        snprintf(run->result->problem, problem_size, "cannot connect: %s",
                 context != NULL ? context->errstr : "no memory");
        if (context != NULL) redisAsyncFree(context);
        return NULL;
    }
    context->ev.data = run;
    context->ev.addRead = add_read;
    context->ev.delRead = del_read;
    context->ev.addWrite = add_write;
    context->ev.delWrite = del_write;
    context->ev.cleanup = forget;
    if (address->password != NULL && address->username != NULL) {
        redisAsyncCommand(context, NULL, NULL, "AUTH %s %s", address->username, address->password);
    } else if (address->password != NULL) {
        redisAsyncCommand(context, NULL, NULL, "AUTH %s", address->password);
    }
    if (address->database != 0) redisAsyncCommand(context, NULL, NULL, "SELECT %d", address->database);
    run->context = context;
    return context;
}

/// Turns the loop until every client has stopped.
static void turn(struct run *run, double until) {
    while (run->busy > 0 && run->context != NULL) {
        struct pollfd descriptor = {
            .fd = run->context->c.fd,
            .events = (short)(POLLIN | (run->wants_write ? POLLOUT : 0)),
            .revents = 0,
        };
        int ready = poll(&descriptor, 1, 5000);
        if (ready <= 0) {
            snprintf(run->result->problem, problem_size, "no answer for 5 s");
            return;
        }
        if (descriptor.revents & (POLLIN | POLLHUP | POLLERR)) redisAsyncHandleRead(run->context);
        if (run->context != NULL && run->wants_write) redisAsyncHandleWrite(run->context);
        if (reference_now() >= until) run->stopping = 1;
    }
}

int reference_run_async(const reference_address *address, const reference_pair *pair, int clients, double seconds,
                        reference_result *result) {
    memset(result, 0, sizeof *result);
    struct run run = {.pair = pair, .result = result, .wants_read = 0, .wants_write = 0, .stopping = 0, .busy = 0};
    struct client *all = calloc((size_t)clients, sizeof *all);
    if (all == NULL || connect_async(address, &run) == NULL) {
        free(all);
        return -1;
    }
    for (int index = 0; index < clients; index += 1) {
        all[index].run = &run;
        if (prepare(&all[index].acquire, &pair->acquire, index) != 0
            || prepare(&all[index].release, &pair->release, index) != 0) {
            snprintf(result->problem, problem_size, "a command has too many or too long arguments");
        }
    }
    if (result->problem[0] == 0) {
        double start = reference_now();
        double cpu = reference_thread_cpu();
        run.busy = clients;
        for (int index = 0; index < clients; index += 1) send_acquire(&all[index]);
        turn(&run, start + seconds);
        result->seconds = reference_now() - start;
        result->cpu_seconds = reference_thread_cpu() - cpu;
    }
    // Callbacks of commands that are still unanswered (after a problem) run in here, with a NULL answer.
    if (run.context != NULL) redisAsyncFree(run.context);
    for (int index = 0; index < clients; index += 1) {
        discard(&all[index].acquire);
        discard(&all[index].release);
    }
    free(all);
    return result->problem[0] == 0 ? 0 : -1;
}

// MARK: the blocking loop

static redisReply *call(redisContext *context, struct prepared *command, const struct client *client) {
    refresh(command, client);
    return redisCommandArgv(context, command->count, command->arguments, command->lengths);
}

int reference_run_blocking(const reference_address *address, const reference_pair *pair, double seconds,
                           reference_result *result) {
    memset(result, 0, sizeof *result);
    redisContext *context = reference_connect(address, result->problem);
    if (context == NULL) return -1;
    struct run run = {.pair = pair, .result = result, .context = NULL};
    struct client client = {.run = &run};
    if (prepare(&client.acquire, &pair->acquire, 0) != 0 || prepare(&client.release, &pair->release, 0) != 0) {
        snprintf(result->problem, problem_size, "a command has too many or too long arguments");
    }
    double start = reference_now();
    double cpu = reference_thread_cpu();
    while (result->problem[0] == 0) {
        reference_nonce(client.nonce);
        redisReply *reply = call(context, &client.acquire, &client);
        int right = is_right(&pair->acquire, reply, result);
        if (right) keep_fence(&client, reply);
        if (reply != NULL) freeReplyObject(reply);
        if (!right) break;
        reply = call(context, &client.release, &client);
        right = is_right(&pair->release, reply, result);
        if (reply != NULL) freeReplyObject(reply);
        if (!right) break;
        result->pairs += 1;
        if (reference_now() - start >= seconds) break;
    }
    result->seconds = reference_now() - start;
    result->cpu_seconds = reference_thread_cpu() - cpu;
    discard(&client.acquire);
    discard(&client.release);
    redisFree(context);
    return result->problem[0] == 0 ? 0 : -1;
}
