// SPDX-License-Identifier: Apache-2.0
#include "CLibpq.h"

#include <dlfcn.h>
#include <pthread.h>

#ifdef __APPLE__
#define RF_LIBPQ_FILE "libpq.5.dylib"
#else
#define RF_LIBPQ_FILE "libpq.so.5"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rf_libpq functions;
static int is_loaded;

// Returns why it could not be done.
static const char *load(void) {
    void *library = dlopen(RF_LIBPQ_FILE, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return dlerror();
#define RF_LIBPQ_LOAD(name) \
    functions.name = (__typeof__(name) *)dlsym(library, #name); \
    if (functions.name == NULL) return "libpq lacks " #name;
    RF_LIBPQ_FUNCTIONS(RF_LIBPQ_LOAD)
    is_loaded = 1;
    return NULL;
}

const rf_libpq *rf_libpq_load(const char **why) {
    pthread_mutex_lock(&lock);
    *why = is_loaded ? NULL : load();
    pthread_mutex_unlock(&lock);
    return *why == NULL ? &functions : NULL;
}

// libpq's own prints on standard error.
static void ignore(void *unused, const PGresult *notice) { (void)unused, (void)notice; }

PGconn *rf_libpq_start(
    const rf_libpq *libpq, const char *host, const char *port, const char *user, const char *database,
    const char *passfile, const char *options, const char *application) {
    const char *names[] = {"host", "port", "user", "dbname", "passfile", "options", "application_name", NULL};
    const char *values[] = {host, port, user, database, passfile, options, application, NULL};
    PGconn *connection = libpq->PQconnectStartParams(names, values, 0);
    if (connection == NULL) return NULL;
    libpq->PQsetErrorVerbosity(connection, PQERRORS_VERBOSE);
    libpq->PQsetNoticeReceiver(connection, ignore, NULL);
    return connection;
}
