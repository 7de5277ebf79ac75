// SPDX-License-Identifier: Apache-2.0
//
// Groups that have been empty for a configured time, removed automatically.
//
// A client decides nothing here. It finds the groups without members, and orders each removed on the condition that it
// was empty for that time; group.lua notes since when the group is empty, by Redis' clock, and refuses until the time
// is over, or as long as something must be kept. So it does not matter how many clients look, how often, or by which
// clock, nor that one of them sleeps between its look and its order. A look costs two small reads for each group a
// minute.

import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class EmptyGroups: Sendable {
    /// Groups that are looked at in one write.
    private static let page = 200
    private static let longestInterval = 60 * Nanos.second

    private let runner: ScriptRunner
    private let scripts: GroupScripts
    private let milliseconds: Int64
    private let owner: String
    private let reason: String
    private let logger: Logger
    private let alarm = Mutex<Alarm?>(nil)

    init(_ runner: ScriptRunner, _ scripts: GroupScripts, after: Duration, owner: String, logger: Logger) {
        self.runner = runner
        self.scripts = scripts
        self.owner = owner
        self.logger = logger
        milliseconds = Nanos(saturating: after) / .millisecond
        reason = "nobody was in it for \(after)"
    }

    func start() {
        let alarm = Alarm(eventLoop: runner.main.eventLoop) { [weak self] _ in
            Task {
                await self?.look()
                self?.wait()
            }
        }
        self.alarm.withLock { $0 = alarm }
        wait()
    }

    func stop() {
        let alarm = self.alarm.withLock { alarm in
            defer { alarm = nil }
            return alarm
        }
        alarm?.stop()
    }

    /// Not all at the same time.
    private func wait() {
        let interval = min(Self.longestInterval, milliseconds * .millisecond / 4)
        let now = Moment.now
        alarm.withLock { $0 }?.set(now + interval / 2 + .random(in: 0...interval / 2), now: now)
    }

    /// Once through all groups. Where Redis does not answer, the next time will do.
    private func look() async {
        var cursor = ScannedPage.first
        repeat {
            let reply = try? await runner.main.send { [cursor, scripts] writer in
                ScannedPage.ofGroups(scripts.keys, from: cursor, count: Self.page, to: &writer)
            }
            guard let page = reply.flatMap({ ScannedPage($0) }) else { return }
            cursor = page.next
            for name in await due(page.items) { await order(name) }
        } while cursor != ScannedPage.first
    }

    /// Those that may be over, as far as can be told without asking the script.
    private func due(_ names: [String]) async -> [String] {
        let replies = try? await runner.main.pipeline(count: 1 + 2 * names.count) { [scripts] writer in
            writer.begin(1)
            writer.argument("TIME")
            for name in names {
                writer.begin(2)
                writer.argument("HLEN")
                writer.argument(scripts.keys.members, name)
                writer.begin(4)
                writer.argument("HMGET")
                writer.argument(scripts.keys.state, name)
                writer.argument("emptySince")
                writer.argument("offset")
            }
        }
        guard let replies, replies.count == 1 + 2 * names.count,
            let seconds = replies[0].array?.first?.text.flatMap({ Int64($0) })
        else { return [] }
        return names.indices.filter { index in
            guard case .integer(0) = replies[1 + 2 * index] else { return false }
            let state = replies[2 + 2 * index].array?.map { $0.text.flatMap { Int64($0) } } ?? []
            guard let since = state.first ?? nil else { return true }
            return (seconds + 1) * 1000 + ((state.last ?? nil) ?? 0) - since >= milliseconds
        }.map { names[$0] }
    }

    private func order(_ name: String) async {
        let call = scripts.order(
            name, .none, .remove(emptyForMilliseconds: milliseconds), actor: owner, reason: reason,
            id: scripts.nonces.session())
        guard let reply = try? await runner.run(call), GroupScripts.answer(reply)?.status == .ordered else { return }
        logger.info("a group was removed: \(reason)", metadata: [LoggingKeys.group: "\(name)"])
    }
}
