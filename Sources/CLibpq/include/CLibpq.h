// SPDX-License-Identifier: Apache-2.0
//
// What Swift sees of libpq, PostgreSQL's client library: its own header, wherever the system keeps it, and its functions
// as a table that is filled when somebody asks for it.
//
// It is loaded and not linked because of what it brings: Kerberos, LDAP and two TLS libraries, twenty files, for which
// each `ringfence lock` would start 5 ms later and need 5 MB more. So too only an agent that asks a PostgreSQL needs it.
#ifndef RINGFENCE_CLIBPQ_H
#define RINGFENCE_CLIBPQ_H

#if __has_include(<libpq-fe.h>)
#include <libpq-fe.h>
#else
#include <postgresql/libpq-fe.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define RF_LIBPQ_FUNCTIONS(EACH) \
    EACH(PQclear) EACH(PQconnectPoll) EACH(PQconnectStartParams) EACH(PQconsumeInput) EACH(PQerrorMessage) \
    EACH(PQfinish) EACH(PQflush) EACH(PQgetResult) EACH(PQgetvalue) EACH(PQisBusy) EACH(PQnfields) EACH(PQntuples) \
    EACH(PQresStatus) EACH(PQresultErrorMessage) EACH(PQresultStatus) EACH(PQsendQuery) EACH(PQsetErrorVerbosity) \
    EACH(PQsetNoticeReceiver) EACH(PQsetnonblocking) EACH(PQsocket) EACH(PQstatus)

/// The functions of libpq that are used, by their names.
typedef struct rf_libpq {
#define RF_LIBPQ_FIELD(name) __typeof__(name) *_Nonnull name;
    RF_LIBPQ_FUNCTIONS(RF_LIBPQ_FIELD)
#undef RF_LIBPQ_FIELD
} rf_libpq;

/// Loads libpq, if that was not done before; any thread may. NULL: it is not there, and `*why` says so.
const rf_libpq *_Nullable rf_libpq_load(const char *_Nullable *_Nonnull why);

/// Begins to connect, which PQconnectPoll goes on with. May wait for a name to be resolved, but for no server.
///
/// Errors are told with their SQLSTATE, and notices to nobody. `passfile` NULL: libpq's own. NULL: out of memory. The
/// caller ends it with PQfinish.
PGconn *_Nullable rf_libpq_start(
    const rf_libpq *_Nonnull libpq, const char *_Nonnull host, const char *_Nonnull port, const char *_Nonnull user,
    const char *_Nonnull database, const char *_Nullable passfile, const char *_Nonnull options,
    const char *_Nonnull application);

#ifdef __cplusplus
}
#endif

#endif
