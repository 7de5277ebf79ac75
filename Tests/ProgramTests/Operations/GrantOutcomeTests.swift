// SPDX-License-Identifier: Apache-2.0
import Ringfence
import RingfenceOperations
import TestSupport
import Testing

@Suite struct GrantOutcomeTests {
    @Test func `the audit tells which holds ran out, by the next grant or by a look`() async throws {
        try await withRedis { redis in
            let program = try programPath()
            let shell = """
                export RINGFENCE_REDIS='\(redis.unixURL)'
                redis-cli -s \(redis.socketPath) DEL 'ringfence:{default}:lock:a' > /dev/null
                '\(program)' lock a --owner released -- true
                for owner in first second; do
                    '\(program)' lock a b --ttl 1h --owner $owner -- \
                        redis-cli -s \(redis.socketPath) DEL 'ringfence:{default}:lock:a' 'ringfence:{default}:lock:b' \
                        > /dev/null 2>&1
                done
                '\(program)' lock c --owner now -- '\(program)' audit 2>&1
                """
            let text = try await output(of: "bash", ["-c", shell])
            let lines = text.split(separator: "\n").filter { $0.contains("  grant  ") }
            #expect(lines.count == 4, "\(text)")
            for (owner, says) in [("now", "held now"), ("second", "ran out"), ("first", "ran out before 20")] {
                let line = lines.first { $0.contains("  \(owner)  ") }
                #expect(line?.contains(says) == true, "\(owner): \(text)")
            }
            let released = lines.first { $0.contains("  released  ") }
            #expect(released?.contains("ran out") == false && released?.contains("held") == false, "\(text)")
        }
    }
}
