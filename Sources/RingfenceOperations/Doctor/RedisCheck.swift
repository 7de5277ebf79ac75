// SPDX-License-Identifier: Apache-2.0
//
// Checks a Redis that we do not run for settings that silently break the promises, before the first lock is given.
// Diagnosis.swift says what such settings are, as it does for `doctor`.
//
// An eviction policy makes Redis delete held locks and members of groups when memory runs short: with allkeys-lru most
// of 50 held locks were given away in an experiment. That is refused. Everything else is logged as a warning, and the
// service starts: some operators run Redis without a file on purpose and restart it by hand, and a Redis that refuses
// writes now may take them in a minute.
import Hiredis
package import Logging
package import Ringfence

package enum RedisCheck {
    /// - Returns: why it could not be looked at; nil if it was.
    /// - Throws: ``Settings/Failure`` if this Redis may evict locks.
    package static func run(_ configuration: RingfenceConfiguration, logger: Logger) async throws -> String? {
        var configuration = configuration
        configuration.failsFast = true
        // The client that is going to work with it says whether it is there.
        let quiet = Logger(label: "ringfence.check") { _ in SwiftLogNoOpLogHandler() }
        do {
            let readings = try await Examination.with(configuration, logger: quiet) { try await $0.settings() }
            for finding in Diagnosis.findings(readings) {
                if finding.code == "redis.evicts" {
                    throw Settings.Failure(description: "\(finding.detail). Do: \(finding.remedy)")
                }
                let level: Logger.Level =
                    switch finding.severity {
                    case .note: .debug
                    case .warning: .warning
                    case .problem: .error
                    }
                logger.log(
                    level: level, "\(finding.detail)",
                    metadata: finding.remedy.isEmpty ? [:] : ["do": "\(finding.remedy)"])
            }
            return nil
        } catch let error as RedisError {
            return error.message
        }
    }
}
