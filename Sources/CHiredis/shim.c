// SPDX-License-Identifier: Apache-2.0
#include "CHiredis.h"

#include <stdlib.h>

struct rf_reader {
    rf_reader_events events;
    void *owner;
    redisReader *reader;
};

// The reader takes any non-NULL pointer for an object; the real values are built by the events' owner.
static void *object(int accepted) {
    static char dummy;
    return accepted ? &dummy : NULL;
}

static struct rf_reader *self(const redisReadTask *task) { return task->privdata; }

static void *create_string(const redisReadTask *task, char *bytes, size_t length) {
    struct rf_reader *reader = self(task);
    enum rf_leaf kind = RF_LEAF_STRING;
    if (task->type == REDIS_REPLY_STATUS) kind = RF_LEAF_STATUS;
    if (task->type == REDIS_REPLY_ERROR) kind = RF_LEAF_ERROR;
#if HIREDIS_MAJOR >= 1
    // RESP3's verbatim string carries its format in front; we never ask for RESP3, so refuse rather than guess.
    if (task->type == REDIS_REPLY_VERB || task->type == REDIS_REPLY_BIGNUM) return NULL;
#endif
    return object(reader->events.text(reader->owner, kind, bytes, length));
}

static void *create_integer(const redisReadTask *task, long long value) {
    struct rf_reader *reader = self(task);
    return object(reader->events.integer(reader->owner, value));
}

static void *create_null(const redisReadTask *task) {
    struct rf_reader *reader = self(task);
    return object(reader->events.null(reader->owner));
}

#if HIREDIS_MAJOR >= 1
static void *create_array(const redisReadTask *task, size_t count) {
    // Maps, sets and pushes exist in RESP3 only, which we never ask for.
    if (task->type != REDIS_REPLY_ARRAY) return NULL;
    struct rf_reader *reader = self(task);
    return object(reader->events.array(reader->owner, count));
}

static void *create_double(const redisReadTask *task, double value, char *text, size_t length) {
    (void)task, (void)value, (void)text, (void)length;
    return NULL;
}

static void *create_boolean(const redisReadTask *task, int value) {
    (void)task, (void)value;
    return NULL;
}
#else
static void *create_array(const redisReadTask *task, int count) {
    struct rf_reader *reader = self(task);
    return object(reader->events.array(reader->owner, (size_t)count));
}
#endif

static void free_object(void *ignored) { (void)ignored; }

static redisReplyObjectFunctions functions = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
    .createNil = create_null,
    .freeObject = free_object,
#if HIREDIS_MAJOR >= 1
    .createDouble = create_double,
    .createBool = create_boolean,
#endif
};

rf_reader *rf_reader_create(const rf_reader_events *events, void *owner) {
    rf_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) return NULL;
    reader->events = *events;
    reader->owner = owner;
    reader->reader = redisReaderCreateWithFunctions(&functions);
    if (reader->reader == NULL) {
        free(reader);
        return NULL;
    }
    reader->reader->privdata = reader;
    // How much memory an *empty* reader keeps. The default of 16 KiB would free and allocate at every busy read.
    reader->reader->maxbuf = 256 * 1024;
    return reader;
}

void rf_reader_free(rf_reader *reader) {
    if (reader == NULL) return;
    redisReaderFree(reader->reader);
    free(reader);
}

int rf_reader_feed(rf_reader *reader, const void *bytes, size_t length) {
    return redisReaderFeed(reader->reader, bytes, length) == REDIS_OK;
}

enum rf_next rf_reader_next(rf_reader *reader) {
    void *reply = NULL;
    if (redisReaderGetReply(reader->reader, &reply) != REDIS_OK) return RF_NEXT_BROKEN;
    return reply == NULL ? RF_NEXT_MORE : RF_NEXT_REPLY;
}

const char *rf_reader_error(const rf_reader *reader) { return reader->reader->errstr; }

size_t rf_reader_pending(const rf_reader *reader) { return reader->reader->len - reader->reader->pos; }

long long rf_format_command(char **target, int count, const char **arguments, const size_t *lengths) {
    return redisFormatCommandArgv(target, count, arguments, lengths);
}

void rf_free_command(char *command) { redisFreeCommand(command); }
