// SPDX-License-Identifier: Apache-2.0
import Logging
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct EmbeddedRedisTests {
    let logger = Logger(label: "test")

    @Test func `keeps its data over a restart and leaves no process behind`() async throws {
        let state = try TemporaryDirectory()
        let first = try await EmbeddedRedis.start(directory: state.path + "/new/dir", logger: logger)
        let socket = first.directory + "/redis.sock"
        #expect(try await redisCLI(["-s", socket, "SET", "account", "100"]) == "OK")
        await first.stop()
        #expect(kill(first.pid, 0) == -1)

        let second = try await EmbeddedRedis.start(directory: state.path + "/new/dir", logger: logger)
        #expect(second.url == "unix://" + socket)
        #expect(try await redisCLI(["-s", socket, "GET", "account"]) == "100")
        #expect(try await redisCLI(["-s", socket, "CONFIG", "GET", "maxmemory-policy"]).contains("noeviction"))
        #expect(try await redisCLI(["-s", socket, "CONFIG", "GET", "port"]) == "port\n0")
        await second.stop()
    }

    @Test func `one directory has one live instance`() async throws {
        let state = try TemporaryDirectory()
        let first = try await EmbeddedRedis.start(directory: state.path, logger: logger)
        let error = await #expect(throws: EmbeddedRedis.Failure.self) {
            _ = try await EmbeddedRedis.start(directory: state.path, patience: .milliseconds(50), logger: logger)
        }
        #expect(error?.description.contains("in use by another ringfence") == true)
        #expect(error?.description.contains("--redis unix://") == true)
        await first.stop()
    }

    @Test func `nobody else can read what it writes, and a directory others may write to is refused`() async throws {
        let state = try TemporaryDirectory()
        let path = state.path + "/open"
        mkdir(path, 0o755)
        chmod(path, 0o755)
        let redis = try await EmbeddedRedis.start(directory: path, logger: logger)
        #expect(try await redisCLI(["-s", redis.directory + "/redis.sock", "SET", "k", "v"]) == "OK")
        var status = stat()
        for name in ["appendonlydir", "appendonlydir/appendonly.aof.1.incr.aof", "redis.log", "lock"] {
            #expect(stat(path + "/" + name, &status) == 0 && status.st_mode & 0o077 == 0, "\(name)")
        }
        await redis.stop()
        chmod(path, 0o777)
        let error = await #expect(throws: EmbeddedRedis.Failure.self) {
            _ = try await EmbeddedRedis.start(directory: path, logger: logger)
        }
        #expect(error?.description.contains("chmod 700") == true)
    }

    @Test func `a directory too long for a unix socket is refused by name and limit`() async throws {
        let state = try TemporaryDirectory()
        let long = state.path + "/" + String(repeating: "x", count: 100)
        let error = await #expect(throws: EmbeddedRedis.Failure.self) {
            _ = try await EmbeddedRedis.start(directory: long, logger: logger)
        }
        #expect(error?.description.contains("--state-dir") == true)
        #expect(error?.description.contains("96") == true)
    }

    @Test func `run throws when redis-server dies by itself, and the append-only file survives`() async throws {
        let state = try TemporaryDirectory()
        let redis = try await EmbeddedRedis.start(directory: state.path, logger: logger)
        try await redisCLI(["-s", redis.directory + "/redis.sock", "SET", "k", "v"])
        // everysec: what is older than the last flush survives even kill -9.
        try await eventually("the append-only file is flushed") {
            try await redisCLI(["-s", redis.directory + "/redis.sock", "INFO", "persistence"])
                .contains("aof_pending_bio_fsync:0")
        }
        kill(redis.pid, SIGKILL)
        await #expect(throws: EmbeddedRedis.Failure.self) { try await redis.run() }

        let next = try await EmbeddedRedis.start(directory: state.path, logger: logger)
        #expect(try await redisCLI(["-s", next.directory + "/redis.sock", "GET", "k"]) == "v")
        await next.stop()
    }

    @Test func `the default directory follows XDG_STATE_HOME, then HOME`() {
        #expect(EmbeddedRedis.defaultDirectory(["XDG_STATE_HOME": "/x", "HOME": "/h"]) == "/x/ringfence")
        #expect(EmbeddedRedis.defaultDirectory(["HOME": "/h"]) == "/h/.local/state/ringfence")
        #expect(EmbeddedRedis.defaultDirectory([:]) == nil)
    }
}
