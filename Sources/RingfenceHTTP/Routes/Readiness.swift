// SPDX-License-Identifier: Apache-2.0
//
// What /readyz says: of a Redis that can be used, which it is; of one that cannot, why, by a code that a monitor can
// branch on and a sentence that says what to do.
import Hiredis
import Ringfence
import RingfenceOperations

extension JSONWriter {
    /// The answer when locks can be had.
    static func describing(_ redis: RedisView, roundTrip: Duration) -> JSONWriter {
        var json = JSONWriter(capacity: 256)
        json.object { json in
            json.field("status", "ready")
            json.key("redis")
            json.object { json in
                json.field("kind", redis.kind)
                if let primary = redis.primary { json.field("primary", "\(primary)") }
                if let software = redis.software { json.field("software", software) }
                if let epoch = redis.epoch { json.field("epoch", epoch) }
                json.field("generation", Int64(redis.generation))
                json.field("sinceMs", redis.since.wholeMilliseconds)
                if let sentinels = redis.sentinels {
                    json.key("sentinels")
                    json.object { json in
                        json.field("answering", sentinels.answering)
                        json.field("known", sentinels.known)
                    }
                }
                if let replicas = redis.replicas { json.field("replicas", Int64(replicas)) }
            }
            json.key("redisRoundTripMs")
            json.raw("\(Double(Int64(roundTrip / .microseconds(1))) / 1_000)")
            if !redis.faults.isEmpty {
                json.key("faults")
                json.array(redis.faults) { json, fault in
                    json.object { json in
                        json.field("code", fault.code)
                        json.field("detail", fault.message)
                    }
                }
            }
        }
        return json
    }
}

extension Problem {
    /// Why locks cannot be had.
    init(notReady error: RingfenceError) {
        self.init(error as any Error)
        if let redis = error.underlying as? RedisError, let code = Code(redis) { (self.code, title) = (code, nil) }
    }
}

extension Problem.Code {
    fileprivate init?(_ error: RedisError) {
        switch error.fault {
        case .replica: self = .isReplica
        case .sentinel: self = .isSentinel
        case .clusterNode: self = .isCluster
        case .notCluster: self = .notCluster
        case .noPrimary: self = .noPrimary
        case .sentinelsDisagree: self = .sentinelsDisagree
        case .noMajority: self = .noMajority
        case .password: self = .forbidden
        default:
            switch error.server?.prefix {
            case .readOnly?: self = .isReplica
            case .moved?: self = .slotElsewhere
            case .ask?, .tryAgain?: self = .slotMigrating
            case .clusterDown?: self = .clusterDown
            case .loading?, .busy?, .masterDown?, .noReplicas?: self = .notReady
            case .noPermission?: self = .forbidden
            // A service that has no scripts says so in the words of an unknown command.
            case .err?
            where error.message.contains("can't run this command")
                || error.server?.message.hasPrefix("ERR unknown command") == true:
                self = .forbidden
            default: return nil
            }
        }
    }
}
