// SPDX-License-Identifier: Apache-2.0
//
// A process that uses all of Ringfence at once, for the record of failovers:
//
//      TestCaller URL NUMBER required|preferred
//
// It holds three locks again and again, for some milliseconds or past their lease; it is a member that changes what it
// says of itself; and it follows the events. It says each fact on standard output in a line, with its time by the
// machine's monotonic clock, which all processes share:
//
//      MICROSECONDS begins NAME FENCE                it has the lock, and its body begins
//                   ends NAME                        its body has ended
//                   returned NAME CODE               so did the call; `none`: well
//                   asks KEY, told KEY               it asks for a change, and is told that it is made
//                   follows GENERATION SEQUENCE      where the events begin
//                   heard GENERATION SEQUENCE KEY    an event; of a change, its key
//                   reset GENERATION SEQUENCE LOST   so many events were not given; -1: nobody knows how many
//                   unfollowed WHY                   the events have ended
//
// At a line on standard input it stops to hold locks and to change things and leaves its group; at the end of the input
// it shuts down.
import Logging
import Ringfence
import RingfencePlatform
import Synchronization

func now() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
}

// One write a line: it comes whole or not at all, also when the process is killed.
func say(_ fact: String) {
    let bytes = Array("\(now()) \(fact)\n".utf8)
    _ = write(1, bytes, bytes.count)
}

func code(_ error: any Error) -> String { (error as? RingfenceError)?.code.description ?? "\(type(of: error))" }

struct Caller: Sendable {
    let client: RingfenceClient
    let number: Int
    let isQuiet: IsQuiet

    final class IsQuiet: Sendable {
        private let value = Atomic(false)
        var isSet: Bool { value.load(ordering: .relaxed) }
        func set() { value.store(true, ordering: .relaxed) }
    }

    /// Until it is to be quiet.
    func hold(_ name: String) async {
        while !isQuiet.isSet {
            let isLong = Int.random(in: 0..<4) == 0
            let time: Duration = isLong ? .milliseconds(Int.random(in: 500...3_000)) : .milliseconds(20)
            do {
                try await client.withLock(name, ttl: .seconds(2), wait: .seconds(30)) { lease in
                    say("begins \(name) \(lease.fence)")
                    defer { say("ends \(name)") }
                    try await Task.sleep(for: time)
                }
                say("returned \(name) none")
            } catch { say("returned \(name) \(code(error))") }
        }
    }

    /// Until it is to be quiet.
    func change() async {
        var count = 0
        while !isQuiet.isSet {
            do {
                let member = try await client.group("g").join("m\(number)", lease: .seconds(30), rejoins: true)
                while !isQuiet.isSet {
                    count += 1
                    let key = "m\(number)/\(count)"
                    say("asks \(key)")
                    do {
                        try await member.update(metadata: ["n": "\(count)"])
                        say("told \(key)")
                    } catch let error as RingfenceError where error.isRetriable || error.effect == .unknown {}
                    try? await Task.sleep(for: .milliseconds(50))
                }
                return await leave(member)
            } catch { try? await Task.sleep(for: .milliseconds(100)) }
        }
    }

    private func leave(_ member: Membership) async {
        for _ in 0..<100 {
            do { return try await member.leave() } catch { try? await Task.sleep(for: .milliseconds(100)) }
        }
    }

    func follow() async {
        do {
            for try await item in client.events() {
                switch item {
                case .state(let state): say("follows \(state.cursor.generation) \(state.cursor.sequence)")
                case .reset(let state, let lost):
                    say("reset \(state.cursor.generation) \(state.cursor.sequence) \(lost ?? -1)")
                case .event(let event):
                    let key = event.joined.map { "\($0.id)/\($0.metadata["n"] ?? "-")" } ?? "\(event.type)"
                    say("heard \(event.generation) \(event.sequence) \(key)")
                }
            }
            if !Task.isCancelled { say("unfollowed end") }
        } catch { if !Task.isCancelled { say("unfollowed \(code(error))") } }
    }
}

let arguments = CommandLine.arguments
guard arguments.count == 4, let number = Int(arguments[2]) else {
    say("usage: TestCaller URL NUMBER required|preferred")
    exit(64)
}
var logger = Logger(label: "caller")
logger.logLevel = .critical
var configuration = RingfenceConfiguration(url: arguments[1], owner: "caller-\(number)")
configuration.sentinel.majority = arguments[3] == "required" ? .required : .preferred
let caller = Caller(client: try RingfenceClient(configuration, logger: logger), number: number, isQuiet: .init())
let following = Task.detached { await caller.follow() }
let working = Task.detached {
    await withTaskGroup(of: Void.self) { group in
        for name in ["a", "b", "c"] { group.addTask { await caller.hold(name) } }
        group.addTask { await caller.change() }
    }
}
_ = readLine()
caller.isQuiet.set()
await working.value
say("quiet")
while readLine() != nil {}
following.cancel()
await following.value
await caller.client.shutdown()
