// SPDX-License-Identifier: Apache-2.0
//
// A Redis that holds data (not the one that coordinates): PING and ROLE over one connection that is kept.
//
// A replica that has lost its primary is not failing: it is exactly the one that may be promoted. So neither the state
// of its link nor MASTERDOWN (a replica told not to serve stale data) fails the check. The position is the replication
// offset; it counts within one history, and a replica that was promoted goes on from there.
import Hiredis
import Logging
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations

/// Passes when Redis answers; tells its role and its replication offset.
struct RedisProbe: CheckProbe {
    private let client: RedisClient

    init(url: String, passwordFile: String?) throws {
        var configuration: RedisConfiguration
        do { configuration = try RedisConfiguration(url: url) } catch {
            throw Settings.Failure(description: "url: \(error.message)")
        }
        if let passwordFile {
            let line = try readFile(passwordFile, limit: 4_096).prefix { $0 != 0x0A && $0 != 0x0D }
            configuration.password = String(decoding: line, as: UTF8.self)
        }
        configuration.clientName = "ringfence-agent"
        configuration.backoff.cap = .milliseconds(100)
        client = RedisClient(configuration, logger: Logger(label: "ringfence.check") { _ in SwiftLogNoOpLogHandler() })
    }

    func look(timeout: Duration) async -> Observation {
        do {
            let replies = try await client.pipeline(count: 2, deadline: timeout) { writer in
                for word in ["PING", "ROLE"] {
                    writer.begin(1)
                    writer.argument(word)
                }
            }
            return Self.observation(replies)
        } catch {
            return Observation(failure: error.code == .timedOut ? "timed out" : error.message)
        }
    }

    static func observation(_ replies: [RedisReply]) -> Observation {
        if let error = replies.first?.error, error.prefix != .masterDown {
            return Observation(failure: "\(error)")
        }
        guard replies.count == 2, case .array(let role) = replies[1], let name = role.first?.text else {
            return Observation(failure: replies.last?.error.map { "\($0)" } ?? "ROLE was not answered as expected")
        }
        switch name {
        case "master" where role.count >= 2:
            let replicas = role.count > 2 ? (role[2].array ?? []).count : 0
            return Observation(role: .primary, position: role[1].int, detail: ["replicas": "\(replicas)"])
        case "slave" where role.count >= 5:
            let host = "\(role[1].text ?? ""):\(role[2].int ?? 0)"
            return Observation(
                role: .standby, position: role[4].int.flatMap { $0 < 0 ? nil : $0 },
                detail: ["follows": host, "link": role[3].text ?? ""])
        default: return Observation(failure: "its role is \(name)")
        }
    }

    func close() async { await client.close() }
}
