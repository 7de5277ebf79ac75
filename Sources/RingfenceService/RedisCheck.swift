// SPDX-License-Identifier: Apache-2.0
//
// Looks at somebody else's Redis for settings that silently break the promises, before the first lock is given.
//
// An eviction policy makes Redis delete held locks and members of groups when memory runs short: with allkeys-lru most of
// 50 held locks were given away in an experiment. That is refused. No append-only file together with an automatic restart
// loses all locks and fences at once, and the groups until their members have beaten anew: that is said loudly, since some
// run Redis without a file on purpose and restart it by hand.
import Hiredis
import Logging
import Ringfence

enum RedisCheck {
    /// - Throws: ``Settings/Failure`` if this Redis may evict locks. An unreachable Redis only delays its check.
    static func run(_ configuration: RingfenceConfiguration, logger: Logger) async throws {
        var redis: RedisConfiguration
        do {
            redis = try RedisConfiguration(
                url: configuration.url,
                tls: .init(
                    authorityFile: configuration.tls.authorityFile,
                    certificateFile: configuration.tls.certificateFile,
                    privateKeyFile: configuration.tls.privateKeyFile, serverName: configuration.tls.serverName))
        } catch { throw Settings.Failure(description: "redis: \(error.message)") }
        redis.commandTimeout = configuration.commandTimeout
        redis.connectTimeout = configuration.connectTimeout
        let client = RedisClient(redis, logger: logger)
        do {
            let policy = try await setting("maxmemory-policy", client)
            let memory = try await setting("maxmemory", client)
            let file = try await setting("appendonly", client)
            await client.close()
            if let policy, policy != "noeviction" {
                guard memory == "0" else {
                    throw Settings.Failure(
                        description: """
                            this Redis has maxmemory-policy \(policy): when its memory runs short it deletes held locks and members. \
                            Use CONFIG SET maxmemory-policy noeviction, or another Redis
                            """)
                }
                logger.warning(
                    "this Redis would evict locks and members if it had a maxmemory: set maxmemory-policy noeviction")
            }
            if file == "no" {
                logger.warning(
                    "this Redis keeps no append-only file: if it restarts, all locks are free at once and groups empty")
            }
        } catch let error as RedisError {
            await client.close()
            let why = error.code == .server ? "it does not let us ask" : error.message
            logger.warning("the settings of this Redis are not checked", metadata: ["reason": "\(why)"])
        }
    }

    private static func setting(_ name: String, _ client: RedisClient) async throws -> String? {
        let reply = try await client.send { writer in
            writer.begin(3)
            for word in ["CONFIG", "GET", name] { writer.argument(word) }
        }
        guard case .array(let pair) = reply, pair.count == 2 else { return nil }
        return pair[1].text
    }
}
