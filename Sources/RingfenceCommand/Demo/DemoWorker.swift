// SPDX-License-Identifier: Apache-2.0
//
// One worker process of the demo: takes transfers off the queue and applies them, a few at a time. It is written as any
// payment service would be, and knows nothing of the murder and sleep that its parent has in mind for it:
//
//   take a transfer -> lock both accounts -> read -> compute -> write through the guard -> unlock -> next
//
// Now and then it dawdles between reading and writing, as a process does that asks a fraud check, collects garbage or
// is moved to another host, and says so on its standard output; that is when its parent likes to stop it. When it
// wakes, its lease is long over and its body is cancelled; but the write may be in a driver that knows no cancellation,
// or in a socket's buffer already. So the write here goes out regardless, and it is the guard's turn to refuse it.

import ArgumentParser
import Logging
import NIOPosix
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform
import Synchronization

/// `ringfence demo-worker`, which only `ringfence demo` starts.
struct DemoWorkerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo-worker", abstract: "A worker process of the demo.", shouldDisplay: false)

    @Option var run: String
    @Option var name: String
    @Option var lanes: Int
    @Option var ttlMs: Int
    @Flag var unsafe = false

    /// Carries the URL, which may have a password in it, past the eyes of `ps`.
    static let urlVariable = "RINGFENCE_DEMO_REDIS"

    func run() async throws {
        guard let url = getenv(Self.urlVariable).map({ String(cString: $0) }) else {
            throw CommandFailure("demo-worker is started by ringfence demo, not by hand")
        }
        let logger = Logger.command("ringfence.demo", level: .critical)
        let configuration = try DemoStore.configuration(
            url: url, run: run, owner: name, environment: Environment.values)
        let worker = DemoWorker(
            name: name, ttl: .milliseconds(ttlMs), isUnsafe: unsafe,
            store: try DemoStore(configuration, run: run, logger: logger),
            locks: try RingfenceClient(configuration, logger: logger))
        try await worker.run(lanes: lanes)
    }
}

/// A worker process.
struct DemoWorker: Sendable {
    /// The write came too late and was refused; the transfer is taken up again from the start.
    struct StaleWrite: Error {}

    /// How often it dawdles, and how long.
    static let dawdlesOneIn = 100
    static let dawdling = Duration.milliseconds(40)
    /// A transfer that cannot be applied for longer is a bug or a dead Redis.
    static let patience = Duration.seconds(60)

    let name: String
    let ttl: Duration
    let isUnsafe: Bool
    let store: DemoStore
    let locks: RingfenceClient

    /// The name of a lane's list in the store.
    static func lane(_ worker: String, _ number: Int) -> String { "\(worker).\(number)" }

    /// Works until the parent closes standard input and the queue is empty.
    func run(lanes: Int) async throws {
        let isClosing = InputEnd()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<lanes {
                group.addTask { try await work(Self.lane(name, number), until: isClosing) }
            }
            for try await _ in group {}
        }
        await locks.shutdown()
        await store.close()
    }

    private func work(_ lane: String, until isClosing: InputEnd) async throws {
        var mayHold = false
        while true {
            do {
                guard let transfer = try await store.take(lane, mayHold: mayHold) else {
                    if isClosing.isReached { return }
                    mayHold = false
                    try await Task.sleep(for: .milliseconds(10))
                    continue
                }
                mayHold = true
                try await applyInTheEnd(transfer)
                try await store.finish(transfer, lane)
                mayHold = false
            } catch let failure as CommandFailure {
                throw failure
            } catch {
                // An answer was lost: the lane's list tells what is to be done, if anything.
                mayHold = true
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }

    /// Tries until the transfer is applied, by this worker or by another.
    private func applyInTheEnd(_ transfer: Transfer) async throws {
        let start = ContinuousClock.now
        while true {
            do {
                return isUnsafe ? try await applyUnsafely(transfer) : try await apply(transfer)
            } catch let failure as CommandFailure {
                throw failure
            } catch {
                guard ContinuousClock.now - start < Self.patience else {
                    throw CommandFailure("worker \(name) cannot apply \(transfer.id): \(error)")
                }
                try await Task.sleep(for: .milliseconds(Int.random(in: 5...50)))
            }
        }
    }

    private func apply(_ transfer: Transfer) async throws {
        try await locks.withLock([transfer.from, transfer.to], ttl: ttl, wait: .seconds(15)) { lease in
            switch try await store.read(transfer, lease) {
            case .applied: return
            case .stale: throw StaleWrite()
            case .balances(let from, let to):
                await dawdle(over: transfer)
                // A task of its own, so that it is not cancelled with the body: see the head of this file.
                let write = Task {
                    try await store.write(
                        transfer, lease, from: from - transfer.amount, to: to + transfer.amount, worker: name)
                }
                if try await write.value == .stale { throw StaleWrite() }
            }
        }
    }

    private func applyUnsafely(_ transfer: Transfer) async throws {
        guard case .balances(let from, let to) = try await store.readUnsafely(transfer) else { return }
        await dawdle(over: transfer)
        try await store.writeUnsafely(transfer, from: from - transfer.amount, to: to + transfer.amount)
    }

    /// Now and then takes its time, and says so. The line is short enough to be written in one piece.
    private func dawdle(over transfer: Transfer) async {
        guard Int.random(in: 0..<Self.dawdlesOneIn) == 0 else { return }
        let line = "\(name) \(transfer.id)\n"
        _ = line.withCString { write(STDOUT_FILENO, $0, strlen($0)) }
        try? await Task.sleep(for: Self.dawdling)
    }
}

/// Watches standard input for its end: the parent closed it, or is gone.
private final class InputEnd: Sendable {
    private let reached = Atomic(false)

    var isReached: Bool { reached.load(ordering: .acquiring) }

    init() {
        let thread = NIOThreadPool(numberOfThreads: 1)
        thread.start()
        thread.submit { _ in
            var byte: UInt8 = 0
            while true {
                let count = read(STDIN_FILENO, &byte, 1)
                if count == 0 || (count < 0 && errno != EINTR) { break }
            }
            self.reached.store(true, ordering: .releasing)
            thread.shutdownGracefully { _ in }
        }
    }
}
