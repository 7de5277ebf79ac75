// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

/// What a container says of itself: whether it lives, where it listens, and what it lacks.
@Suite struct HealthCommandTests {
    private func write(_ text: String, to path: String, mode: mode_t = 0o600) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        guard descriptor >= 0, RingfencePlatform.write(descriptor, text, text.utf8.count) == text.utf8.count else {
            throw TestSupportError("cannot write \(path)")
        }
        _ = fchmod(descriptor, mode)
        close(descriptor)
    }

    @Test func `health says that the service lives though Redis is away, and with --ready that it is not ready`()
        async throws
    {
        try await withService { service, redis in
            let port = ["--port", "\(service.port)"]
            let alive = try await Program.run(["health"] + port)
            #expect(alive.code == 0 && alive.output == "http://127.0.0.1:\(service.port)/livez: alive\n", "\(alive)")
            let ready = try await Program.run(["health", "--ready"] + port)
            #expect(ready.code == 0 && ready.output.hasSuffix("/readyz: ready\n"), "\(ready)")
            await redis.stop()
            #expect(try await Program.run(["health"] + port).code == 0)
            let unready = try await Program.run(["health", "--ready"] + port)
            #expect(unready.code == 1 && unready.error.contains("/readyz: "), "\(unready)")
            _ = await service.stop()
            let gone = try await Program.run(["health"] + port)
            #expect(gone.code == 1 && gone.error.hasSuffix("/livez: connection refused\n"), "\(gone)")
        }
    }

    @Test func `health asks where the file and the variables say that the service listens`() async throws {
        try await withService { service, _ in
            let directory = try TemporaryDirectory()
            let file = directory.path + "/settings.json"
            try write(#"{"port": \#(service.port), "host": "0.0.0.0"}"#, to: file)
            for (arguments, environment) in [
                (["--config", file], []), ([], ["RINGFENCE_CONFIG=\(file)"]),
                ([], ["RINGFENCE_PORT=\(service.port)", "RINGFENCE_HOST=0.0.0.0"]),
            ] {
                let answer = try await Program.run(["health"] + arguments, environment: environment)
                #expect(answer.output == "http://127.0.0.1:\(service.port)/livez: alive\n", "\(answer)")
            }
            let free = try await Program.run(["health", "--port", "0"])
            #expect(free.code == 64 && free.error.contains("--port"), "\(free)")
        }
    }

    @Test func `a service that listens everywhere names an address that can be called, and how to guard its tokens`()
        async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let tokens = directory.path + "/tokens"
            try write("0123456789abcdef0123456789abcdef\n", to: tokens, mode: 0o644)
            let program = try await Program.start(
                [
                    "serve", "--host", "0.0.0.0", "--port", "0", "--token-file", tokens, "--redis", redis.unixURL,
                ], in: directory)
            try await eventually("it serves") { program.output.contains("try: curl") }
            #expect(program.output.contains("serves http://0.0.0.0:"))
            #expect(program.output.contains("try: curl -s http://127.0.0.1:"), "\(program.output)")
            #expect(program.error.contains("chown \(geteuid()), and chmod 400"), "\(program.error)")
            program.process.signal(SIGTERM)
            #expect(await program.process.wait() == .code(0))
        }
    }

    @Test func `serve without a Redis and without redis-server says both, whatever its home is`() async throws {
        let told = try await Program.run(
            ["serve", "--port", "0"], environment: ["PATH=/nowhere", "HOME=/proc/nowhere"])
        #expect(told.code == 69)
        #expect(told.error.contains("no Redis is named"), "\(told.error)")
        #expect(told.error.contains("RINGFENCE_REDIS"), "\(told.error)")
    }
}
