// SPDX-License-Identifier: Apache-2.0
//
// A primary must keep its role for as long as nothing has happened to it. A machine with all cores busy, and a Redis
// that hangs for a fifth of the lease now and then, is nothing: with RINGFENCE_SOAK_SECONDS=600 this goes on for ten
// minutes.

import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite(.enabled(if: number("RINGFENCE_SOAK_SECONDS") != nil)) struct SoakTests {
    private static let lease = 1000

    /// How much is left of the lease that ends next, in the group's own time: ms.
    private static let margin = """
        local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(redis.call('HGET', KEYS[2], 'offset') or 0)
        local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
        return first[2] and math.floor(first[2] - now) or 1000000
        """

    @Test
    func `a primary keeps its role on a busy machine, though Redis stalls for a fifth of the lease every ten seconds`()
        async throws
    {
        let seconds = Int(number("RINGFENCE_SOAK_SECONDS") ?? 0)
        let directory = try TemporaryDirectory()
        try await withObservedRedis(["--enable-debug-command", "yes"]) { server, observer in
            try await withClient(server.url) { client in
                let elected = Shared(0)
                let lost = Shared<[String]>([])
                // Nobody got through to Redis for a while: no harm, but worth to be told.
                let gaps = Shared(0)
                let isFollowing = Shared(false)
                let following = Task {
                    for try await item in client.events() {
                        isFollowing.change { $0 = true }
                        guard case .event(let event) = item else { continue }
                        switch event.type {
                        case .primaryElected: elected.change { $0 += 1 }
                        case .coordinatorGap: gaps.change { $0 += 1 }
                        case .primaryLost, .memberExpired:
                            lost.change { $0.append(String(decoding: event.json, as: UTF8.self)) }
                        default: break
                        }
                    }
                }
                defer { following.cancel() }
                try await eventually("the subscriber knows where it begins") { isFollowing.value }
                var processes: [TalkingProcess] = []
                for number in 0..<3 {
                    processes.append(
                        try .start(
                            "TestPrimary",
                            [server.url, "g", "n\(number)", "\(Self.lease)", "\(directory.path)/n\(number)"]))
                }
                for _ in 0..<max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) {
                    processes.append(try .start(program: "/bin/sh", ["-c", "while :; do :; done"]))
                }
                defer { for process in processes { process.signal(SIGKILL) } }
                try await eventually("somebody is primary") { elected.value == 1 }
                let group = try await client.group("g")
                try await eventually(group, "all are there") { $0.ids.count == 3 }

                let begin = ContinuousClock.now
                var (stalls, worst): (Int, Int64) = (0, .max)
                while ContinuousClock.now - begin < .seconds(seconds) {
                    if ContinuousClock.now - begin >= .seconds(10 * (stalls + 1)) {
                        try await observer.send("DEBUG", "SLEEP", "0.2")
                        stalls += 1
                    }
                    let keys = ["ringfence:{default}:leases:g", "ringfence:{default}:state:g"]
                    let answer = try await observer.send(["EVAL", Self.margin, "2"] + keys)
                    if case .integer(let left) = answer { worst = min(worst, left) }
                    try await Task.sleep(for: .milliseconds(5))
                }
                print(
                    "soak: \(seconds) s, lease \(Self.lease) ms, \(stalls) stalls of 200 ms, "
                        + "\(elected.value - 1) false failovers, worst lease margin \(worst) ms, "
                        + "\(lost.value.count) false deaths and losses, \(gaps.value) gaps")
                #expect(elected.value == 1)
                // Not only by what the subscriber heard.
                #expect(group.snapshot.primary?.epoch == 1)
                #expect(lost.value == [])
                #expect(worst > 0)
                for process in processes { try await process.end() }
            }
        }
    }
}
