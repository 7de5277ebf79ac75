// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CSpawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

extern char **environ;

// Descriptors above the kept ones are closed one by one: close_range() is not in every libc this builds with.
static void close_others(int kept) {
    long limit = sysconf(_SC_OPEN_MAX);
    if (limit < 0 || limit > 65536) limit = 65536;
#if defined(__linux__) && defined(CLOSE_RANGE_CLOEXEC)
    if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0) {
        if (kept >= 0) fcntl(kept, F_SETFD, 0);
        return;
    }
#endif
    for (int fd = 3; fd < limit; fd++) fcntl(fd, F_SETFD, fd == kept ? 0 : FD_CLOEXEC);
}

// Runs in the child; returns only when a step failed, with errno set.
static void become(const ringfence_spawn_options *options, pid_t parent) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++) sigaction(number, &standard, NULL);
    if (options->ignores_hangup) signal(SIGHUP, SIG_IGN);
#ifdef __linux__
    if (options->parent_death_signal != 0) {
        if (prctl(PR_SET_PDEATHSIG, options->parent_death_signal) != 0) return;
        if (getppid() != parent) _exit(127);
    }
#endif
    if (options->group && setpgid(0, 0) != 0) return;
    if (options->input >= 0 && dup2(options->input, 0) < 0) return;
    if (options->output >= 0 && dup2(options->output, 1) < 0) return;
    if (options->error >= 0 && dup2(options->error, 2) < 0) return;
    if (options->file_mask >= 0) umask((mode_t)options->file_mask);
    if (options->directory && chdir(options->directory) != 0) return;
    close_others(options->kept);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    // execvp looks argv[0] up in the PATH of `environ`; this is the child's own copy.
    environ = (char **)options->environment;
    execvp(options->arguments[0], options->arguments);
}

int ringfence_spawn(const ringfence_spawn_options *options, pid_t *child) {
    int report[2];
#ifdef __linux__
    if (pipe2(report, O_CLOEXEC) != 0) return errno;
#else
    if (pipe(report) != 0) return errno;
    fcntl(report[0], F_SETFD, FD_CLOEXEC);
    fcntl(report[1], F_SETFD, FD_CLOEXEC);
#endif
    pid_t parent = getpid();
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        become(options, parent);
        int failure = errno;
        while (write(report[1], &failure, sizeof failure) < 0 && errno == EINTR) {}
        _exit(127);
    }
    int failure = pid < 0 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (pid > 0) {
        ssize_t count;
        // End of file means exec closed the pipe: the program runs.
        while ((count = read(report[0], &failure, sizeof failure)) < 0 && errno == EINTR) {}
        if (count > 0) {
            while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
        } else {
            failure = 0;
        }
    }
    close(report[0]);
    if (failure == 0) *child = pid;
    return failure;
}
