// SPDX-License-Identifier: Apache-2.0
//
// The parent of the demo: fills the queue, starts the workers, harms them, and does the books at the end.
//
// The harm is spread over the progress, not over time, so that a fast machine sees as much of it as a slow one. A kill
// may hit anywhere. A pause is aimed: the parent waits until a worker says that it is between reading and writing,
// stops it there, gives its work back to the queue as any queue does when a consumer falls silent, waits until another
// worker has applied that very transfer, and only then wakes the sleeper, whose write now comes too late. Left to
// chance the dangerous moment would be hit once in a thousand runs, which is how it is met in production.

import Logging
import RingfenceConsole
import RingfenceOperations

/// A run of the demo.
struct DemoRun: Sendable {
    struct Settings: Sendable {
        var url: String
        var workers: Int
        var isUnsafe: Bool
        /// `RINGFENCE_*`, as far as they concern it.
        var environment: [String: String] = [:]
        var ttl: Duration = .seconds(1)
        /// How long a worker sleeps at least: past its lease, where there is one.
        var pause: Duration { isUnsafe ? .milliseconds(100) : ttl }
        var lanes = 4
        var kills = 8
        var pauses = 6
    }

    /// Something that was done to a worker.
    private enum Harm { case kill, pause }

    let settings: Settings
    let file: TransferFile
    let printer: DemoPrinter
    private let store: DemoStore
    private let pool: WorkerPool
    private let started = ContinuousClock.now
    private let tally = DemoTally()

    init(_ settings: Settings, _ file: TransferFile, _ printer: DemoPrinter, logger: Logger) throws {
        self.settings = settings
        self.file = file
        self.printer = printer
        let run = String(UInt64.random(in: 0..<1 << 48), radix: 36)
        store = try DemoStore(
            DemoStore.configuration(url: settings.url, run: run, environment: settings.environment), run: run,
            logger: logger)
        pool = try WorkerPool(
            url: settings.url, environment: settings.environment, run: run, ttl: settings.ttl, lanes: settings.lanes,
            isUnsafe: settings.isUnsafe)
    }

    /// Runs it to the end and returns what came of it.
    func run() async throws -> DemoReport {
        do {
            let opening = Reconciliation.opening(for: file)
            try await store.open(file, opening: opening)
            let start = ContinuousClock.now
            for _ in 0..<settings.workers { try await pool.start() }
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await harm() }
                group.addTask { try await watch(since: start) }
                for try await _ in group {}
            }
            try await pool.close(within: .seconds(30))
            let seconds = (ContinuousClock.now - start).seconds
            let report = DemoReport(
                settings: settings, transfers: file.transfers.count, accounts: file.accounts.count, seconds: seconds,
                tally: tally.value, refused: try await store.refusedWrites().count,
                books: Reconciliation(
                    file: file, opening: opening, balances: try await store.balances(file.accounts),
                    journal: try await store.journal()))
            try await store.remove(file.accounts, lanes: pool.allLanes)
            await store.close()
            return report
        } catch {
            await pool.killAll()
            // A task of its own, because this one may have been cancelled.
            await Task {
                try? await store.remove(file.accounts, lanes: pool.allLanes)
                await store.close()
            }.value
            throw error
        }
    }

    /// Shows the progress until all transfers are applied.
    private func watch(since start: ContinuousClock.Instant) async throws {
        var last = (count: -1, at: ContinuousClock.now)
        while true {
            let count = try await store.appliedCount()
            let now = ContinuousClock.now
            printer.progress(
                done: count, of: file.transfers.count, seconds: (now - start).seconds, tally: tally.value)
            tally.applied(count)
            if count == file.transfers.count { return }
            try pool.checkAlive()
            if count > last.count { last = (count, now) }
            guard now - last.at < .seconds(60) else {
                throw CommandFailure("nothing was applied for 60 s, with \(file.transfers.count - count) to go")
            }
            // A failover can undo that a dead worker's transfers were given back.
            if now - last.at > .seconds(2) { for lane in pool.lanesOfTheDead { _ = try await store.redeliver(lane) } }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Kills and pauses workers in turn, evenly over the progress, until the work is done.
    private func harm() async throws {
        let plan = Self.plan(kills: settings.kills, pauses: settings.pauses)
        for (index, harm) in plan.enumerated() {
            // From 3 % to 85 % of the work: the first worker has to be at work, the last victim to have time to wake.
            let share = 0.03 + 0.82 * Double(index) / Double(max(1, plan.count))
            let threshold = Int(share * Double(file.transfers.count))
            while tally.value.applied < threshold { try await Task.sleep(for: .milliseconds(5)) }
            if tally.value.applied == file.transfers.count { return }
            switch harm {
            case .kill: try await killOne()
            case .pause: try await pauseOne()
            }
        }
    }

    /// Kills and pauses, as evenly mixed as they can be.
    private static func plan(kills: Int, pauses: Int) -> [Harm] {
        let kills = (0..<kills).map { (Double($0) + 0.5) / Double(kills) }.map { ($0, Harm.kill) }
        let pauses = (0..<pauses).map { (Double($0) + 0.4) / Double(pauses) }.map { ($0, Harm.pause) }
        return (kills + pauses).sorted { $0.0 < $1.0 }.map(\.1)
    }

    private func killOne() async throws {
        guard let victim = pool.workers.randomElement() else { return }
        await pool.kill(victim)
        let redelivered = try await redeliver(victim)
        let successor = try await pool.start()
        tally.killed(redelivered: redelivered)
        printer.story(
            "killed \(victim.name) (pid \(victim.process.pid)) with \(redelivered) transfers in hand; "
                + "\(successor.name) takes its place")
    }

    private func pauseOne() async throws {
        for _ in 0..<10 {
            guard let (victim, notice) = try await pool.nextNotice(within: .seconds(2)) else { return }
            guard try await pool.pause(victim) else { continue }
            if try await store.isApplied(notice.transfer) {
                pool.resume(victim)  // too slow: it had written already
                continue
            }
            return try await keepPaused(victim, notice.transfer)
        }
    }

    /// Keeps a worker stopped until its lease is over and another worker did its work, then wakes it.
    private func keepPaused(_ victim: WorkerPool.Worker, _ transfer: String) async throws {
        let start = ContinuousClock.now
        let redelivered = try await redeliver(victim)
        while true {
            let paused = ContinuousClock.now - start
            if paused > settings.pause, try await store.isApplied(transfer) { break }
            guard paused < .seconds(30) else {
                pool.resume(victim)
                throw CommandFailure("nobody applied \(transfer) within 30 s of its worker's pause")
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        let paused = ContinuousClock.now - start
        pool.resume(victim)
        tally.paused(redelivered: redelivered)
        let outcome =
            settings.isUnsafe ? "its late write went through" : try await lateWrite(victim.name, transfer)
        printer.story(
            "paused \(victim.name) for \(DemoPrinter.decimal(paused.seconds)) s between reading and writing "
                + "\(transfer); another worker applied it; woken, \(outcome)")
    }

    /// Waits for the guard's word on the late write of a worker that was just woken.
    private func lateWrite(_ worker: String, _ transfer: String) async throws -> String {
        let end = ContinuousClock.now + .seconds(5)
        while ContinuousClock.now < end {
            if try await store.refusedWrites().contains("\(worker) \(transfer)") { return "its late write was refused" }
            try await Task.sleep(for: .milliseconds(5))
        }
        return "it wrote nothing"
    }

    private func redeliver(_ worker: WorkerPool.Worker) async throws -> Int {
        var count = 0
        for lane in 0..<settings.lanes { count += try await store.redeliver(DemoWorker.lane(worker.name, lane)) }
        return count
    }
}
