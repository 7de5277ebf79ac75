// SPDX-License-Identifier: Apache-2.0
//
// A lock holder in a process of its own, for the accident that fencing is for: it takes the lock, checks its lease, is
// stopped (SIGSTOP) between the check and the write, and when it is continued becomes the given command, which finds
// FENCE and HOLDER in its environment and writes without looking again.
//
//   StoppedHolder REDIS-URL LOCK TTL-MS COMMAND…
import Ringfence
import RingfencePlatform

@main struct StoppedHolder {
    static func main() async throws {
        let arguments = CommandLine.arguments
        let client = try RingfenceClient(.init(url: arguments[1]))
        let ttl = Duration.milliseconds(Int(arguments[3])!)
        var lease = try await client.acquire(arguments[2], ttl: ttl)
        // On a machine under load even this may come too late. Only a holder that found its lease good is of interest.
        while (try? lease.check()) == nil { lease = try await client.acquire(arguments[2], ttl: ttl) }
        // To this very thread: sent to the process, another thread may take the signal while this one runs on.
        raise(SIGSTOP)

        setenv("FENCE", "\(lease.fence)", 1)
        setenv("HOLDER", lease.id, 1)
        var command = arguments[4...].map { strdup($0) }
        command.append(nil)
        execvp(arguments[4], command)
        exit(127)
    }
}
