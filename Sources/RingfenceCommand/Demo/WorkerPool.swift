// SPDX-License-Identifier: Apache-2.0
//
// The worker processes of the demo, and what is done to them. Each is this executable again. All share one pipe on
// which they say what they dawdle over, and one on their standard input, whose end means "finish and go": they reach
// that end too if the parent dies, but the kernel kills them before (ChildProcess), stopped ones included.

import Logging
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform
import Synchronization

/// The worker processes of a run.
final class WorkerPool: Sendable {
    /// One worker process.
    struct Worker: Sendable {
        let name: String
        let process: ChildProcess
        fileprivate let stops: StopCounter
    }

    /// A worker is between reading and writing.
    struct Notice: Sendable {
        let worker: String
        let transfer: String
    }

    let lanes: Int
    private let launch: ChildProcess.Launch
    private let notices: NoticePipe
    private let input: Pipe
    private let state = Mutex((workers: [Worker](), started: 0, isClosed: false))

    init(
        url: String, environment: [String: String], run: String, ttl: Duration, lanes: Int, isUnsafe: Bool
    ) throws {
        self.lanes = lanes
        input = try Pipe()
        notices = try NoticePipe()
        var launch = ChildProcess.Launch(
            [OwnExecutable.path, "demo-worker", "--run", run, "--lanes", String(lanes)]
                + ["--ttl-ms", String(Int(ttl.seconds * 1000))] + (isUnsafe ? ["--unsafe"] : []))
        launch.environment =
            Environment.current.filter { !$0.hasPrefix("RINGFENCE_") } + environment.map { "\($0.key)=\($0.value)" }
            + ["\(DemoWorkerCommand.urlVariable)=\(url)"]
        // Ctrl-C is for the parent, which ends them in order.
        launch.hasOwnGroup = true
        launch.input = input.reader
        launch.output = notices.pipe.writer
        self.launch = launch
    }

    /// The workers that are meant to live.
    var workers: [Worker] { state.withLock { $0.workers } }
    /// The names of all lists that workers of this run ever had.
    var allLanes: [String] { lanes(of: (0..<state.withLock { $0.started }).map { "w\($0 + 1)" }) }
    /// Those of workers that are not meant to live any more.
    var lanesOfTheDead: [String] {
        let (started, living) = state.withLock { ($0.started, Set($0.workers.map(\.name))) }
        return lanes(of: (0..<started).map { "w\($0 + 1)" }.filter { !living.contains($0) })
    }

    private func lanes(of workers: [String]) -> [String] {
        workers.flatMap { worker in (0..<lanes).map { DemoWorker.lane(worker, $0) } }
    }

    /// Starts one more worker.
    @discardableResult
    func start() async throws -> Worker {
        let number = state.withLock { state in
            state.started += 1
            return state.started
        }
        var launch = launch
        launch.arguments += ["--name", "w\(number)"]
        let stops = StopCounter()
        let process = try await ChildProcess.start(launch) { _, _ in stops.increment() }
        let worker = Worker(name: "w\(number)", process: process, stops: stops)
        state.withLock { $0.workers.append(worker) }
        return worker
    }

    /// Kills a worker, as the kernel does when memory runs out, and waits until it is dead.
    func kill(_ worker: Worker) async {
        state.withLock { $0.workers.removeAll { $0.name == worker.name } }
        worker.process.signal(SIGKILL)
        _ = await worker.process.wait()
    }

    /// Stops a worker in its tracks and returns once the kernel says that it stands still; false if it has ended.
    func pause(_ worker: Worker) async throws -> Bool {
        let before = worker.stops.count
        worker.process.signal(SIGSTOP)
        while worker.stops.count == before {
            guard worker.process.isRunning else { return false }
            try await Task.sleep(for: .milliseconds(1))
        }
        return true
    }

    /// Lets a paused worker go on.
    func resume(_ worker: Worker) { worker.process.signal(SIGCONT) }

    /// The next notice of a living worker that came after this call; nil after `limit`.
    func nextNotice(within limit: Duration) async throws -> (Worker, Notice)? {
        notices.skip()
        let end = ContinuousClock.now + limit
        while ContinuousClock.now < end {
            for notice in notices.read() {
                if let worker = workers.first(where: { $0.name == notice.worker }) { return (worker, notice) }
            }
            try await Task.sleep(for: .milliseconds(1))
        }
        return nil
    }

    /// Throws if a worker ended that nobody killed.
    func checkAlive() throws {
        let isClosed = state.withLock { $0.isClosed }
        for worker in workers where !worker.process.isRunning && !isClosed {
            throw CommandFailure("worker \(worker.name) ended by itself; see its message above")
        }
    }

    /// Tells all to finish and go, and waits for that; kills what has not gone after `limit` and throws.
    func close(within limit: Duration) async throws {
        state.withLock { $0.isClosed = true }
        input.closeWriter()
        let late = Task {
            try await Task.sleep(for: limit)
            for worker in workers { worker.process.signal(SIGKILL) }
        }
        defer { late.cancel() }
        for worker in workers {
            let exit = await worker.process.wait()
            guard exit == .code(0) else {
                throw CommandFailure("worker \(worker.name) did not finish its work (\(exit))")
            }
        }
    }

    /// Kills all; for an end by an error.
    func killAll() async {
        for worker in workers { await kill(worker) }
    }
}

/// How often a process was stopped.
private final class StopCounter: Sendable {
    private let stops = Atomic(0)
    var count: Int { stops.load(ordering: .acquiring) }
    func increment() { stops.add(1, ordering: .releasing) }
}

/// A pipe that children inherit an end of only where they are given it.
private final class Pipe: Sendable {
    let reader: Int32
    let writer: Int32
    private let isWriterOpen = Atomic(true)

    init() throws {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw CommandFailure("cannot make a pipe: \(String(cString: strerror(errno)))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        reader = ends[0]
        writer = ends[1]
    }

    deinit {
        closeWriter()
        close(reader)
    }

    func closeWriter() {
        if isWriterOpen.exchange(false, ordering: .relaxed) { close(writer) }
    }
}

/// Where workers say what they dawdle over. A line is written in one piece, so lines of several workers never mix.
private final class NoticePipe: Sendable {
    let pipe: Pipe
    private let rest = Mutex<[UInt8]>([])

    init() throws {
        pipe = try Pipe()
        _ = fcntl(pipe.reader, F_SETFL, O_NONBLOCK)
    }

    /// Forgets what was said so far.
    func skip() { _ = read() }

    /// What was said since.
    func read() -> [WorkerPool.Notice] {
        rest.withLock { rest in
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = RingfencePlatform.read(pipe.reader, &buffer, buffer.count)
                guard count > 0 else { break }
                rest += buffer[..<count]
            }
            guard let end = rest.lastIndex(of: UInt8(ascii: "\n")) else { return [] }
            let lines = String(decoding: rest[...end], as: UTF8.self).split(separator: "\n")
            rest.removeSubrange(...end)
            return lines.compactMap { line in
                let words = line.split(separator: " ", maxSplits: 1)
                return words.count == 2 ? .init(worker: String(words[0]), transfer: String(words[1])) : nil
            }
        }
    }
}
