// SPDX-License-Identifier: Apache-2.0
//
// Nodes of a simulated cache, those who call them, and what lies between: calls are lost, late, and executed again much
// later.
import RingfenceCacheCore
import RingfenceCore
import TestSupport

/// A Redis: the model, and what becomes of its process.
final class CacheNode {
    let id: String
    var model: CacheNodeModel
    /// ms; its clock is the true one and this.
    var clockOffset: Int64
    private(set) var runs = 1
    var isUp = true
    var isFrozen = false
    /// It left for good: nothing comes back of itself.
    var isGone = false
    var unread: [() -> Void] = []
    /// As it was, the oldest first.
    var snapshots: [CacheNodeModel] = []

    init(id: String, model: CacheNodeModel, clockOffset: Int64) {
        self.id = id
        self.model = model
        self.clockOffset = clockOffset
    }

    var run: String { "\(id)-\(runs)" }

    func newRun() {
        runs += 1
        unread = []
    }

    /// Of which epoch it is whole now, for who is connected now.
    func wholeEpoch(now: Nanos) -> Int64 {
        model.clock = now / .millisecond + clockOffset
        return model.wholeEpoch(run: run)
    }
}

/// A process that can be paused at any moment, and cut off from any node.
class CacheProcess {
    unowned let world: CacheWorld
    let name: String
    private(set) var isPaused = false
    private(set) var isAlive = true
    private var pauses = 0
    private var waiting: [() -> Void] = []
    /// By node: cut off until then.
    var cutUntil: [String: Nanos] = [:]

    init(_ world: CacheWorld, name: String) {
        self.world = world
        self.name = name
    }

    /// Does it now, or when it is awake.
    func act(_ action: @escaping () -> Void) {
        guard isAlive else { return }
        if isPaused { waiting.append(action) } else { action() }
    }

    func after(_ delay: Nanos, _ action: @escaping () -> Void) { world.after(delay) { self.act(action) } }

    func pause(for length: Nanos) {
        guard !isPaused, isAlive else { return }
        world.note("\(name) pauses for \(length / .millisecond) ms")
        isPaused = true
        pauses += 1
        let pause = pauses
        world.after(length) { if self.pauses == pause { self.wake() } }
    }

    func wake() {
        guard isPaused else { return }
        world.note("\(name) wakes")
        isPaused = false
        var all = waiting
        waiting = []
        // Timers and answers that came meanwhile, in any order.
        if world.random.chance(50) { all.shuffle(using: &world.random) }
        // One of them may pause it again.
        for action in all { act(action) }
    }

    func kill() {
        world.note("\(name) is killed")
        isAlive = false
        waiting = []
    }

    func isCut(from node: CacheNode) -> Bool { (cutUntil[node.id] ?? 0) > world.now }

    /// Sends a call; `reply` hears of it once, at the latest at `deadline`.
    func send(
        _ call: CacheCall, to id: String, stamp: CacheStamp, deadline: Nanos,
        reply: @escaping (Result<CacheAnswer, CacheFailure>) -> Void
    ) {
        var isOpen = true
        func finish(_ result: Result<CacheAnswer, CacheFailure>) {
            act {
                guard isOpen else { return }
                isOpen = false
                reply(result)
            }
        }
        guard let node = world.nodes[id], node.isUp, !isCut(from: node) || world.random.chance(30) else {
            // Refused at once, or nobody says anything.
            let isRefused = world.random.chance(70)
            world.after(isRefused ? world.travelTime() : max(0, deadline - world.now)) {
                finish(.failure(isRefused ? .notSent : .unknown))
            }
            return
        }
        world.after(max(0, deadline - world.now)) { finish(.failure(.unknown)) }
        let run = node.run
        if world.mishap(.lose, 4) { return }
        func travel(_ answered: @escaping (Result<CacheAnswer, CacheFailure>) -> Void) {
            world.after(world.travelTime()) {
                // A connection ends with the server. What waited to be sent goes out on the next one, and whoever asked
                // sees that it is of another run by then.
                let isOfRun = node.run == run
                guard isOfRun || self.world.random.chance(20), !self.isCut(from: node) else { return }
                self.world.execute(call, at: node, stamp: stamp, run: run, from: self) { answer in
                    guard !self.isCut(from: node), !self.world.mishap(.lose, 4) else { return }
                    self.world.after(self.world.travelTime()) {
                        answered(isOfRun ? .success(answer) : .failure(.unknown))
                    }
                }
            }
        }
        travel { finish($0) }
        // Nobody hears the answer to the repetition.
        if world.mishap(.again, 6) { world.after(world.dice(0...CacheWorld.latest)) { travel { _ in } } }
    }
}
