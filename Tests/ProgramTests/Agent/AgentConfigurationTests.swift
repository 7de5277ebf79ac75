// SPDX-License-Identifier: Apache-2.0
import RingfenceAgent
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

struct AgentConfigurationTests {
    private static func read(_ json: String) throws -> AgentConfiguration {
        try AgentConfiguration(json: Array(json.utf8))
    }

    /// With fields that are needed, and these.
    private static func with(_ fields: String) throws -> AgentConfiguration {
        try read(#"{"group":"g","member":"m",\#(fields)}"#)
    }

    private static func failure(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)" }
        return "nothing was wrong"
    }

    @Test func `a whole file is read`() throws {
        let read = try Self.read(
            """
            { "redis": "redis://127.0.0.1:6379", "namespace": "pay",
              "group": "ledger-db", "member": "db-1", "address": "10.0.0.1:5432", "zone": "a", "priority": 3,
              "lease": "3s", "candidate": true, "suspendBudget": "500ms", "listen": "127.0.0.1:8008",
              "onUnhealthy": "ignore", "agreement": "4s",
              "checks": [
                {"type": "postgres", "address": "10.0.0.1:5433", "user": "postgres", "interval": "1s",
                 "timeout": "500ms", "fall": 4, "rise": 1, "fastInterval": "200ms"},
                {"type": "https", "name": "api", "url": "https://db:8443/up?x=1", "status": "200-399", "body": "ok",
                 "header": "X-Role", "headerValue": "primary", "method": "GET"},
                {"type": "redis", "address": "127.0.0.1:6380"},
                {"type": "command", "command": ["/bin/true"]},
                {"type": "tcp", "address": "[::1]:5432"}
              ],
              "hooks": { "onPromote": {"command": ["/bin/true", "a b"], "timeout": "7s"},
                         "onSuspend": {"command": ["/bin/true"]}, "onEvent": {"command": ["/bin/true"]} } }
            """)
        #expect(read.namespace == "pay")
        #expect(read.member == "db-1")
        #expect(read.priority == 3)
        #expect(!read.releasesWhenUnhealthy)
        #expect(read.listen == AgentConfiguration.Endpoint("127.0.0.1:8008"))
        #expect(read.checks.map(\.name) == ["postgres", "api", "redis", "command", "tcp"])
        #expect(read.checks[0].policy.fall == 4)
        #expect(read.checks[0].policy.rise == 1)
        guard case .postgres(let plan) = read.checks[0].probe else {
            Issue.record("no postgres check")
            return
        }
        #expect(plan.host == "10.0.0.1")
        #expect(plan.port == 5433)
        guard case .http(let request) = read.checks[1].probe else {
            Issue.record("no http check")
            return
        }
        #expect(request.isSecure)
        #expect(request.target == "/up?x=1")
        #expect(request.endpoint == AgentConfiguration.Endpoint("db:8443"))
        #expect(request.status == 200...399)
        #expect(read.checks[2].probe == .redis(url: "redis://127.0.0.1:6380", passwordFile: nil))
        #expect(read.checks[4].probe == .tcp(try #require(AgentConfiguration.Endpoint("[::1]:5432"))))
        #expect(read.hooks[.onPromote]?.command == ["/bin/true", "a b"])
        #expect(read.hooks[.onPromote]?.timeout == .seconds(7))
        #expect(read.hooks[.onSuspend]?.timeout == .milliseconds(500), "the fence budget")
        #expect(read.onEvent?.timeout == .seconds(30))
        #expect(read.policy.hooks[.onPromote] == 7 * .second)
    }

    @Test func `little is needed`() throws {
        let read = try Self.read(#"{"group":"g","member":"m"}"#)
        #expect(read.lease == .seconds(3))
        #expect(read.suspendBudget == .seconds(1))
        #expect(read.isCandidate)
        #expect(read.checks.isEmpty)
        let short = try Self.with(#""lease":"600ms""#)
        #expect(short.suspendBudget == .milliseconds(200))
    }

    @Test(arguments: [
        (#"{"member":"m"}"#, "group is missing"),
        (#"{"group":"g","member":"m","grup":1}"#, #"unknown field "grup""#),
        (#"{"group":"g","member":5}"#, "member must be a string, not an integer"),
        (#"{"group":"g","member":"m","lease":"3"}"#, "lease must be a number with ms"),
        (#"{"group":"g","member":"m","lease":"100ms"}"#, "lease must be 200 ms to 1 h 0 m, not 100 ms"),
        (
            #"{"group":"g","member":"m","lease":"1s","suspendBudget":"600ms"}"#,
            "suspendBudget must be at most half of lease"
        ),
        (#"{"group":"g","member":"m","listen":"8008"}"#, "listen must be HOST:PORT"),
        (#"{"group":"g","member":"m","advertise":"10.0.0.1:8008"}"#, "advertise needs listen"),
        (#"{"group":"g","member":"m","metadata":{"ringfence.agent":"x:1"}}"#, "ringfence.agent is the agent's own"),
        (#"{"group":"g","member":"m","onUnhealthy":"panic"}"#, "onUnhealthy must be release, ignore"),
        (#"{"group":"g","member":"m","priority":2000}"#, "priority must be -1000 to 1000, not 2000"),
        (#"{"group":"g","member":"m","address":"h' user='x"}"#, "address must be HOST:PORT"),
        (#"{"group":"g","member":"m","checks":{}}"#, "checks must be an array of objects"),
        (#"{"group":"g","member":"m","checks":[{"type":"smtp"}]}"#, "checks[0].type must be tcp, http"),
        (#"{"group":"g","member":"m","checks":[{"type":"tcp"}]}"#, "checks[0].address is missing"),
        (#"{"group":"g","member":"m","checks":[{"type":"tcp","address":"h"}]}"#, "checks[0].address must be HOST:PORT"),
        (
            #"{"group":"g","member":"m","checks":[{"type":"tcp","address":"h:1","url":"x"}]}"#,
            "checks[0].url is not known here"
        ),
        (
            #"{"group":"g","member":"m","checks":[{"type":"tcp","address":"h:1","fall":0}]}"#,
            "checks[0].fall must be 1 to 100, not 0"
        ),
        (
            #"{"group":"g","member":"m","checks":[{"type":"redis","url":"redis+sentinel://h:1,i:1/main"}]}"#,
            "checks[0].url names Sentinels, and one server is looked at"
        ),
        (
            #"{"group":"g","member":"m","checks":[{"type":"http","url":"https://h/"}]}"#,
            "checks[0].url must begin with http://"
        ),
        (
            #"{"group":"g","member":"m","checks":[{"type":"http","url":"http://h/","status":"ok"}]}"#,
            "checks[0].status must be a status or a range"
        ),
        (
            #"{"group":"g","member":"m","hooks":{"onPromote":{"command":"promote.sh"}}}"#,
            "hooks.onPromote.command must be an array of strings"
        ),
        (
            #"{"group":"g","member":"m","hooks":{"onPromote":{"command":["promote.sh"]}}}"#,
            "hooks.onPromote.command must begin with the absolute path"
        ),
        (#"{"group":"g","member":"m","hooks":{"onPromoted":{}}}"#, "hooks.onPromoted is not known here"),
        (
            #"{"group":"g","member":"m","hooks":{"onPromote":{"command":["/bin/true"],"timeout":"0ms"}}}"#,
            "hooks.onPromote.timeout must be 1 ms to 24 h 0 m, not 0 ms"
        ),
        ("{\n\n\"group\": \"g\",\n oops }", "line 4:"),
    ])
    func `a mistake is named with its place and the limit`(json: String, message: String) {
        let told = Self.failure { _ = try Self.read(json) }
        #expect(told.contains(message), "\(told)")
    }

    @Test func `a file that others could have written is refused, and so are its programs`() throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/agent.json"
        let hook = directory.path + "/hook.sh"
        let json = #"{"group":"g","member":"m","hooks":{"onPromote":{"command":["\#(hook)"]}}}"#
        try writeFile(hook, "#!/bin/sh\n", mode: 0o755)
        chmod(hook, 0o755)
        try writeFile(file, json)
        _ = try AgentConfiguration(file: file)

        chmod(file, 0o620)
        #expect(Self.failure { _ = try AgentConfiguration(file: file) }.contains("others can write \(file)"))
        chmod(file, 0o602)
        #expect(Self.failure { _ = try AgentConfiguration(file: file) }.contains("others can write"))
        chmod(file, 0o640)
        _ = try AgentConfiguration(file: file)

        chmod(hook, 0o775)
        let told = Self.failure { _ = try AgentConfiguration(file: file) }
        #expect(told.contains("hooks.onPromote.command") && told.contains("others can write \(hook)"), "\(told)")
        chmod(hook, 0o644)
        #expect(Self.failure { _ = try AgentConfiguration(file: file) }.contains("cannot be executed"))
        chmod(hook, 0o755)

        chmod(directory.path, 0o777)
        #expect(Self.failure { _ = try AgentConfiguration(file: file) }.contains("others can write the directory"))
        chmod(directory.path, 0o1777)
        _ = try AgentConfiguration(file: file)
        chmod(directory.path, 0o755)

        // A link leads to where the question is asked again.
        let link = directory.path + "/link.json"
        symlink("agent.json", link)
        _ = try AgentConfiguration(file: link)
        chmod(file, 0o666)
        #expect(Self.failure { _ = try AgentConfiguration(file: link) }.contains("others can write \(file)"))
        chmod(file, 0o644)
        let loop = directory.path + "/loop"
        symlink("loop", loop)
        #expect(Self.failure { _ = try AgentConfiguration(file: loop) }.contains("too many links"))
        #expect(Self.failure { _ = try AgentConfiguration(file: directory.path) }.contains("is a directory"))

        if geteuid() == 0 {
            chown(file, 12_345, 12_345)
            #expect(Self.failure { _ = try AgentConfiguration(file: file) }.contains("belongs to user 12345"))
        }
    }
}
