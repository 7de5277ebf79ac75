// SPDX-License-Identifier: Apache-2.0
//
// The channel on which Redis' scripts tell this process of grants and revocations. Pub/sub delivers at most once, so a
// push is a hint that saves time: after every gap all waiters ask Redis again, and each has a timer besides.

import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class Inbox: Sendable {
    private let subscriber: RedisSubscriber
    private let isStarted = Atomic<Bool>(false)

    init(
        _ configuration: RedisConfiguration, channel: String, eventLoop: any EventLoop, table: LockTable,
        keeper: LeaseKeeper, watch: RedisWatch, logger: Logger
    ) {
        subscriber = RedisSubscriber(
            configuration, channels: [channel], eventLoop: eventLoop, logger: logger
        ) { event in
            switch event {
            case .subscribed(let first):
                watch.channel(isRefused: nil)
                table.inbox(isHeard: true)
                if !first { keeper.lookAtAll(now: Moment.now) }
            case .disconnected: table.inbox(isHeard: false)
            case .refused(let error):
                watch.channel(isRefused: error)
                table.inbox(isHeard: false)
            case .message(_, let payload):
                let lines = payload.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
                    .map { String(decoding: $0, as: UTF8.self) }
                guard lines.count >= 4, let fence = Int64(lines[2]) else {
                    return logger.warning("a message on the inbox is not from lock.lua; ignored")
                }
                switch lines[0] {
                case "grant": table.pushed(nonce: lines[1], fence: fence, names: Array(lines[3...]))
                case "revoked": keeper.revoke(nonce: lines[1])
                default: logger.warning("a message on the inbox is not from lock.lua; ignored")
                }
            }
        }
    }

    /// Subscribes, at the first use.
    func start() {
        guard !isStarted.load(ordering: .relaxed) else { return }
        guard isStarted.compareExchange(expected: false, desired: true, ordering: .relaxed).exchanged else { return }
        subscriber.start()
    }

    func close() async { await subscriber.close() }
}
