// SPDX-License-Identifier: Apache-2.0
import Ringfence
import TestSupport
import Testing

@testable import RingfenceOperations

@Suite struct SettingsTests {
    @Test func `a flag wins over a variable, a variable over the file, the file over the default`() throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/ringfence.json"
        try writeFile(file, #"{"port": 1001, "host": "127.0.0.2", "namespace": "file", "command-timeout": "300ms"}"#)
        let environment = [
            "RINGFENCE_CONFIG": file, "RINGFENCE_PORT": "1002", "RINGFENCE_HOST": "127.0.0.3", "HOME": "/home/me",
        ]
        let settings = try Settings(flags: ["port": "1003"], environment: environment, file: nil)
        #expect(settings.port == 1003)
        #expect(settings.host == "127.0.0.3")
        #expect(settings.namespace == "file")
        #expect(settings.commandTimeout == .milliseconds(300))
        #expect(settings.redis == nil)
        #expect(settings.stateDirectory == "/home/me/.local/state/ringfence")
        #expect(throws: Settings.Failure.self) {
            try Settings(flags: [:], environment: environment, file: directory.path + "/none.json")
        }
    }

    @Test func `every setting in the table is set from each source`() throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/s.json"
        for key in SettingKey.all {
            let text =
                switch key.kind {
                case .port: "5"
                case .number: "100"
                case .duration: key == .fenceRetention ? "1m" : "1s"
                case .logLevel: "debug"
                case .text where key == .sentinelTLS: "on"
                case .text where key == .sentinelMajority: "required"
                case .text where key == .redisAddressMap: "a=b"
                case .text, .path, .secret: "value"
                }
            // A certificate is two files.
            let pair =
                [SettingKey.redisCertificate, .redisKey].contains(key) ? ["redis-cert": "c", "redis-key": "k"] : [:]
            _ = try Settings(flags: pair.merging([key.name: text]) { $1 }, environment: [:], file: nil)
            _ = try Settings(flags: pair.filter { $0.key != key.name }, environment: [key.variable: text], file: nil)
            try writeFile(file, "{\"\(key.name)\": \(key.kind == .port || key.kind == .number ? text : "\"\(text)\"")}")
            _ = try Settings(flags: pair.filter { $0.key != key.name }, environment: [:], file: file)
        }
    }

    @Test func `a password is no flag`() throws {
        let settings = try Settings(
            flags: ["sentinel-password": "seen by all"], environment: ["RINGFENCE_SENTINEL_PASSWORD": "secret"],
            file: nil)
        #expect(settings.sentinel.password == "secret")
        #expect(settings.configuration(url: "redis://h").sentinel.password == "secret")
    }

    @Test(arguments: [
        (#"{"prot": 1}"#, ["prot", "line 1", "port"]),
        ("{\n\"port\": 1,\n\"port\": 2}", ["port", "line 3", "twice"]),
        (#"{"port": "80"}"#, ["port", "integer"]),
        (#"{"port": 70000}"#, ["port", "65535"]),
        (#"{"host": 5}"#, ["host", "string"]),
        (#"{"command-timeout": "5"}"#, ["command-timeout", "500ms"]),
        (#"{"command-timeout": "1h"}"#, ["command-timeout", "60s"]),
        (#"{"log-level": "loud"}"#, ["log-level", "trace"]),
        (#"{"fence-retention": "59s"}"#, ["fence-retention", "1m to 365d"]),
        (#"{"fence-retention": "366d"}"#, ["fence-retention", "1m to 365d"]),
        (#"{"redis": ""}"#, ["redis", "empty"]),
        (#"{"redis-watch": "99ms"}"#, ["redis-watch", "100ms to 1h"]),
        (#"{"redis-address-map": "a"}"#, ["redis-address-map", "FROM=TO"]),
        (#"{"sentinel-tls": "yes"}"#, ["sentinel-tls", "same, on, off"]),
        (#"{"sentinel-majority": "no"}"#, ["sentinel-majority", "preferred, required"]),
        (#"{"port": 1"#, ["line 1"]),
        ("", ["line 1"]),
    ])
    func `a bad file is an error that names the setting and the place`(text: String, says: [String]) throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/s.json", text)
        let failure = #expect(throws: Settings.Failure.self) {
            try Settings(flags: [:], environment: [:], file: directory.path + "/s.json")
        }
        for word in says + ["s.json"] {
            #expect(failure?.description.contains(word) == true, "\(failure?.description ?? "")")
        }
    }

    @Test func `a bad flag or variable is named`() {
        let flag = #expect(throws: Settings.Failure.self) {
            try Settings(flags: ["port": "x"], environment: [:], file: nil)
        }
        #expect(flag?.description.contains("--port") == true)
        let variable = #expect(throws: Settings.Failure.self) {
            try Settings(flags: [:], environment: ["RINGFENCE_LOG_LEVEL": "x"], file: nil)
        }
        #expect(variable?.description.contains("RINGFENCE_LOG_LEVEL") == true)
    }

    @Test func `a relative path starts at the working directory`() throws {
        let settings = try Settings(flags: ["state-dir": "s1", "token-file": "/t"], environment: [:], file: nil)
        #expect(settings.stateDirectory?.hasPrefix("/") == true && settings.stateDirectory?.hasSuffix("/s1") == true)
        #expect(settings.tokenFile == "/t")
    }

    @Test func `a password in a URL is not shown`() {
        #expect(Settings.redacted("redis://user:secret@host:1/0") == "redis://user:***@host:1/0")
        #expect(Settings.redacted("redis://:sec@ret@host") == "redis://***@host")
        #expect(Settings.redacted("unix:///a/b.sock") == "unix:///a/b.sock")
    }

    @Test func `durations need a unit`() {
        #expect(Duration(text: "500ms") == .milliseconds(500))
        #expect(Duration(text: "5m") == .seconds(300))
        #expect(Duration(text: "2h") == .seconds(7_200))
        #expect(Duration(text: "1d") == .seconds(86_400))
        for wrong in ["", "5", "s", "-5s", "1.5s", "5 s", "5S", "9999999999999s", "٣s"] {
            #expect(Duration(text: wrong) == nil, "\(wrong)")
        }
    }
}

/// Which Redis a command takes: one that is named, or one that is found in the one place.
@Suite struct PlaceTests {
    private func place(_ environment: [String: String], _ flags: [String: String] = [:]) throws -> Settings.Place {
        try Settings(flags: flags, environment: environment, file: nil).place()
    }

    @Test func `without a name and without a service here it is an error that says how`() throws {
        let directory = try TemporaryDirectory()
        for environment in [["HOME": directory.path], ["RINGFENCE_STATE_DIR": directory.path], [:]] {
            let failure = #expect(throws: Settings.Failure.self) { _ = try place(environment) }
            let text = failure?.description ?? ""
            #expect(text.contains("--redis") && text.contains("RINGFENCE_REDIS"), "\(text)")
            #expect(!text.contains("6379"))
        }
    }

    @Test func `what is named wins over what is found, and is shown without its password`() throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/redis.sock", "")
        let state = ["RINGFENCE_STATE_DIR": directory.path]
        #expect(try place(state) == .init(url: "unix://\(directory.path)/redis.sock", isFound: true))
        let named = try place(state.merging(["RINGFENCE_REDIS": "redis://:secret@r:1/2"]) { $1 })
        #expect(!named.isFound && named.url == "redis://:secret@r:1/2" && named.shown == "redis://***@r:1/2")
        #expect(try place(state, ["redis": "redis://other"]).url == "redis://other")
    }

    @Test func `two users of one machine never hold one lock on two Redis`() async throws {
        try await withRedis { redis in
            let home = try TemporaryDirectory()
            let program = try programPath()
            let clean = ["HOME=\(home.path)", "PATH=/usr/bin:/bin", "XDG_STATE_HOME=", "RINGFENCE_REDIS="]
            let alone = try await output(
                of: "sh",
                ["-c", "env -i \(clean.joined(separator: " ")) '\(program)' lock job -- echo ran 2>&1; echo $?"])
            #expect(!alone.contains("ran") && alone.contains("--redis") && alone.hasSuffix("64\n"), "\(alone)")
            let named = try await output(
                of: "sh",
                [
                    "-c",
                    "env -i \(clean.joined(separator: " ")) '\(program)' locks job --json --redis '\(redis.unixURL)'",
                ])
            #expect(named.hasSuffix(#","redis":"\#(redis.unixURL)"}"# + "\n"), "\(named)")
        }
    }
}
