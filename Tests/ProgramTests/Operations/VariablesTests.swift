// SPDX-License-Identifier: Apache-2.0
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@testable import RingfenceOperations

@Suite struct VariablesTests {
    @Test(arguments: [
        ("RINGFENCE_TOKENFILE", "did you mean RINGFENCE_TOKEN_FILE?"), ("RINGFENCE_REDDIS", "RINGFENCE_REDIS?"),
        ("RINGFENCE_CONF", "RINGFENCE_CONFIG?"), ("RINGFENCE_token_file", "RINGFENCE_token_file"),
        ("RINGFENCE_", "RINGFENCE_"), ("RINGFENCE_SOMETHING_ELSE", "unset it"),
    ])
    func `a variable that no setting has is an error with the nearest that one has`(name: String, says: String) {
        let failure = #expect(throws: Settings.Failure.self) {
            try Settings(flags: [:], environment: [name: "x"], file: nil)
        }
        #expect(failure?.description.contains(name) == true && failure?.description.contains(says) == true)
        #expect(throws: Never.self) { try Settings(flags: [:], environment: [name: ""], file: nil) }
    }

    @Test func `the addresses that Kubernetes gives every pod are no settings`() throws {
        let links = [
            "RINGFENCE_PORT": "tcp://10.0.0.1:7420", "RINGFENCE_SERVICE_HOST": "10.0.0.1",
            "RINGFENCE_SERVICE_PORT": "7420", "RINGFENCE_SERVICE_PORT_HTTP": "7420",
            "RINGFENCE_PORT_7420_TCP": "tcp://10.0.0.1:7420", "RINGFENCE_PORT_7420_TCP_ADDR": "10.0.0.1",
            "RINGFENCE_REDIS_SERVICE_HOST": "10.0.0.2", "RINGFENCE_REDIS_PORT": "tcp://10.0.0.2:6379",
            "RINGFENCE_REDIS_PORT_6379_TCP_PROTO": "tcp",
        ]
        let settings = try Settings(flags: [:], environment: links, file: nil)
        #expect(settings.port == 7420 && settings.redis == nil)
        #expect(try Settings(flags: [:], environment: ["RINGFENCE_PORT": "7500"], file: nil).port == 7500)
    }

    @Test func `what children of ours find in their environment is no error when they run ringfence`() async throws {
        try await withRedis { redis in
            let line = [
                "lock", "outer", "--redis", redis.unixURL, "--", try programPath(), "lock", "inner", "--redis",
                redis.unixURL, "--", "true",
            ]
            let run = try await Program.run(line)
            #expect(run.code == 0, "\(run)")
        }
    }

    /// Names behind the prefix in a text, but for the guards of C headers.
    private static func names(in text: String) -> Set<String> {
        Set(
            text.matches(of: /RINGFENCE_([A-Z][A-Z_]*[A-Z])/).map { String($0.output.1) }.filter { !$0.hasSuffix("_H") }
        )
    }

    @Test func `every variable that the sources, the tests and the build name is known`() async throws {
        let listed = try await output(
            of: "sh",
            [
                "-c",
                "cd '\(repositoryRoot)' && "
                    + "grep -rl RINGFENCE_ Sources Tests Package.swift .ci docker --include='[!.]*'",
            ])
        var named: Set<String> = []
        for file in listed.split(separator: "\n")
        where !file.hasSuffix("/VariablesTests.swift") && !file.hasSuffix("/FirstDayTests.swift") {
            named.formUnion(Self.names(in: contents(of: repositoryRoot + file)))
        }
        #expect(named.count > 30)
        named = named.filter { !$0.hasSuffix("_SERVICE_HOST") }
        let settings = SettingKey.all.map { String($0.variable.dropFirst(Settings.prefix.count)) } + ["CONFIG"]
        #expect(named.subtracting(settings).subtracting(Settings.otherVariables) == [])
        #expect(Settings.otherVariables.subtracting(named) == [])
    }

    @Test func `a tilde in a path is the home folder, in the file as well as in a variable`() throws {
        let home = try #require(Environment.values["HOME"])
        let directory = try TemporaryDirectory()
        let file = directory.path + "/s.json"
        try writeFile(file, #"{"token-file": "~/tokens", "state-dir": "~"}"#)
        let settings = try Settings(flags: [:], environment: ["RINGFENCE_REDIS_CA": "~/ca.pem"], file: file)
        #expect(settings.tokenFile == home + "/tokens" && settings.stateDirectory == home)
        #expect(settings.tls.authorityFile == home + "/ca.pem")
    }

    @Test func `a key without its certificate is refused, and a certificate without its key`() {
        for (name, says) in [("redis-key", "without redis-cert"), ("redis-cert", "without redis-key")] {
            let failure = #expect(throws: Settings.Failure.self) {
                try Settings(flags: [name: "/x"], environment: [:], file: nil)
            }
            #expect(failure?.description.contains(says) == true)
        }
        #expect(throws: Never.self) {
            try Settings(flags: ["redis-key": "/k", "redis-cert": "/c"], environment: [:], file: nil)
        }
    }
}
