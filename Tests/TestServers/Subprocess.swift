// SPDX-License-Identifier: Apache-2.0
//
// Starting other programs from tests and benchmarks: redis-server, redis-cli, openssl.
//
// The product's own spawn instead of Foundation's Process, for four reasons that each cost a test suite once:
//  - threads of the cooperative pool block all signals and a child inherits that mask, so a plain spawn makes a
//    redis-server that ignores SIGTERM: the mask and the handlers are reset here;
//  - a child inherits every descriptor that is not closed on exec, and SwiftNIO's sockets are not: a connection that
//    one test had closed stayed open in the server that another had just started, and who waited for its end waited for
//    ever;
//  - "die with the parent" by PR_SET_PDEATHSIG is bound to the *thread* that spawned, and pool threads come and go;
//  - a crashed or killed test run must not leave servers behind. One watchdog shell reads the ids of our children from
//    a pipe; when the pipe closes, because this process ended however it ended, it kills those still on the list.
import CSpawn
import NIOPosix
import RingfencePlatform
import Synchronization

/// A failure of the test's own scaffolding, not of what is tested.
package struct TestSupportError: Error, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}

package enum Subprocess {
    /// Its own threads: a test may run a program that blocks until another program ends it, and the shared pool has as
    /// few threads as the machine has cores.
    private static let pool: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: 32)
        pool.start()
        return pool
    }()

    /// Starts `program` (searched in PATH) and returns its process id; the caller reaps it.
    package static func spawn(
        _ program: String, _ arguments: [String], input: Int32? = nil, output: Int32? = nil
    ) throws -> Int32 {
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        let line: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) } + [nil]
        defer { for pointer in line { free(pointer) } }
        var options = ringfence_spawn_options()
        options.input = input ?? null
        options.output = output ?? null
        options.error = output ?? -1
        options.kept = -1
        options.file_mask = -1
        var pid: Int32 = 0
        let code = line.withUnsafeBufferPointer { line in
            options.arguments = line.baseAddress
            options.environment = UnsafePointer(environ)
            return ringfence_spawn(&options, &pid)
        }
        guard code == 0 else { throw TestSupportError("cannot start \(program): \(String(cString: strerror(code)))") }
        return pid
    }

    /// Runs `program` to its end and returns its exit code and all it printed.
    package static func run(_ program: String, _ arguments: [String]) async throws -> (status: Int32, output: String) {
        try await pool.runIfActive {
            let (reading, writing) = try pipe()
            defer { close(reading) }
            let pid: Int32
            do {
                defer { close(writing) }
                pid = try spawn(program, arguments, output: writing)
            }
            var bytes: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 65_536)
            while true {
                let count = read(reading, &chunk, chunk.count)
                if count > 0 { bytes += chunk[..<count] } else if count == 0 || errno != EINTR { break }
            }
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
            return (exitCode(status), String(decoding: bytes, as: UTF8.self))
        }
    }

    /// The code a shell would show: 128 + n when ended by signal n.
    package static func exitCode(_ status: Int32) -> Int32 {
        status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
    }

    /// A socket pair, because unlike pipe() it can be made close-on-exec at once: another child spawned meanwhile by a
    /// parallel test must not inherit it.
    package static func pipe() throws -> (reading: Int32, writing: Int32) {
        var ends: [Int32] = [0, 0]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else {
            throw TestSupportError("socketpair: \(String(cString: strerror(errno)))")
        }
        return (ends[0], ends[1])
    }
}

/// Kills the children of a test run that ended without cleaning up.
package enum Watchdog {
    private static let script = #"""
        pids=" "
        while read -r what pid; do
            case $what in
                add) pids="$pids$pid " ;;
                del) case $pids in *" $pid "*) pids="${pids%% $pid *} ${pids#* $pid }" ;; esac ;;
            esac
        done
        for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
        """#

    private static let writing: Int32 = {
        guard let ends = try? Subprocess.pipe() else { return -1 }
        _ = try? Subprocess.spawn("/bin/sh", ["-c", script], input: ends.reading)
        close(ends.reading)
        return ends.writing
    }()

    package static func add(_ pid: Int32) { tell("add \(pid)\n") }
    package static func remove(_ pid: Int32) { tell("del \(pid)\n") }

    private static func tell(_ line: String) {
        _ = line.withCString { write(writing, $0, strlen($0)) }
    }
}
