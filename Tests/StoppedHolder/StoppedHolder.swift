// SPDX-License-Identifier: Apache-2.0
//
// A lock holder in a process of its own, for the accident that fencing is for: it takes the lock, checks its lease, is
// stopped (SIGSTOP) between the check and the write, and when it is continued becomes the given command, which finds
// FENCE and HOLDER in its environment and writes without looking again.
//
//   StoppedHolder REDIS-URL LOCK TTL-MS COMMAND…
import Glibc
import Ringfence

@main struct StoppedHolder {
    static func main() async throws {
        let arguments = CommandLine.arguments
        let client = try RingfenceClient(.init(url: arguments[1]))
        let ttl = Duration.milliseconds(Int(arguments[3])!)
        guard let lease = try await client.tryAcquire(arguments[2], ttl: ttl) else { exit(75) }
        setenv("FENCE", "\(lease.fence)", 1)
        setenv("HOLDER", lease.id, 1)

        try lease.check()
        kill(getpid(), SIGSTOP)
        var command = arguments[4...].map { strdup($0) }
        command.append(nil)
        execvp(arguments[4], command)
        exit(127)
    }
}
