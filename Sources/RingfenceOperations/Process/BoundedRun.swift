// SPDX-License-Identifier: Apache-2.0
//
// A program run to its end, or to its limit: a hook, or a check that is a command.
//
// It is over when the process has exited, not when its output is closed: a hook that starts a daemon hands its output
// on to it (`pg_ctl start` without -l), and would otherwise last as long as the daemon. What such a daemon writes later
// is read and thrown away as long as this process lives, lest a full pipe stop it. A moment before the limit the
// process group gets SIGTERM, at the limit SIGKILL; a process that has left the group (setsid) is a daemon on purpose,
// and lives on. The limit runs on an event loop's clock: the pool of tasks may be blocked just when a hook must be cut
// short.
import NIOCore
import NIOPosix
import RingfencePlatform
import Synchronization

/// One run of a program.
package final class BoundedRun: Sendable {
    /// How it ended.
    package enum End: Sendable, Hashable {
        case exited(ChildProcess.Exit)
        /// It was ended at its limit.
        case timedOut
        /// It was ended by `kill`.
        case killed
        case notStarted(String)
    }

    package struct Result: Sendable, Hashable {
        package var end: End
        /// What it printed on both streams: at most the last of it.
        package var output: String
        package var took: Duration
    }

    package struct Plan: Sendable {
        package var arguments: [String]
        /// `NAME=value`.
        package var environment: [String]
        /// What it finds on standard input; at most 60 KiB.
        package var input: [UInt8] = []
        package var limit: Duration
        /// Whether it is killed when this process dies.
        package var diesWithUs = true

        package init(_ arguments: [String], environment: [String], limit: Duration) {
            self.arguments = arguments
            self.environment = environment
            self.limit = limit
        }
    }

    /// Bytes of output that are kept.
    package static let outputBytes = 65_536

    private enum Cut { case limit, kill }
    private struct State {
        var child: ChildProcess?
        var cut: Cut?
    }

    private let plan: Plan
    private let loop = MultiThreadedEventLoopGroup.singleton.any()
    private let state = Mutex(State())

    package init(_ plan: Plan) { self.plan = plan }

    /// Ends it at once, with all that is in its group.
    package func kill() { cut(.kill, SIGKILL) }

    private func cut(_ cut: Cut, _ signal: Int32) {
        let child = state.withLock { state in
            state.cut = state.cut ?? cut
            return state.child
        }
        child?.end(group: signal)
    }

    /// Runs it, once. Cancelling the task does not end it.
    package func run() async -> Result {
        let began = ContinuousClock.now
        let tail = OutputTail()
        let end: End
        do { end = try await perform(into: tail) } catch { end = .notStarted("\(error)") }
        return Result(end: end, output: tail.text, took: ContinuousClock.now - began)
    }

    private func perform(into tail: OutputTail) async throws -> End {
        let output = try Pipe()
        var launch = ChildProcess.Launch(plan.arguments)
        launch.environment = plan.environment
        launch.hasOwnGroup = true
        launch.groupMayOutlive = true
        launch.parentDeathSignal = plan.diesWithUs ? SIGKILL : 0
        launch.output = output.writing
        launch.error = output.writing
        let reading: any Channel
        do {
            reading = try await NIOPipeBootstrap(group: loop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(OutputReader(tail))
                    }
                }
                .takingOwnershipOfDescriptor(input: output.reading).get()
        } catch {
            close(output.reading)
            close(output.writing)
            throw error
        }
        let child: ChildProcess
        do {
            defer { close(output.writing) }
            let input = try Pipe(holding: plan.input)
            defer { close(input.reading) }
            launch.input = input.reading
            child = try await ChildProcess.start(launch)
        } catch {
            reading.close(promise: nil)
            throw error
        }
        // Killed before it was started.
        let early = state.withLock { state in
            state.child = child
            return state.cut
        }
        if early != nil { child.end(group: SIGKILL) }
        let warning = plan.limit - min(plan.limit / 5, .seconds(1))
        let terms = loop.scheduleTask(in: .init(warning)) { [self] in cut(.limit, SIGTERM) }
        let kills = loop.scheduleTask(in: .init(plan.limit)) { [self] in cut(.limit, SIGKILL) }
        let exit = await child.wait()
        terms.cancel()
        kills.cancel()
        await drained(reading)
        return switch state.withLock({ $0.cut }) {
        case .limit: .timedOut
        case .kill: .killed
        case nil: .exited(exit)
        }
    }

    /// Waits for the end of the output, but not for a daemon that has it open.
    private func drained(_ reading: any Channel) async {
        let promise = loop.makePromise(of: Void.self)
        let isDone = Atomic<Bool>(false)
        @Sendable func finish() {
            if !isDone.exchange(true, ordering: .relaxed) { promise.succeed(()) }
        }
        let limit = loop.scheduleTask(in: .milliseconds(20)) { finish() }
        reading.closeFuture.whenComplete { _ in finish() }
        try? await promise.futureResult.get()
        limit.cancel()
    }
}

/// Two ends of a pipe, closed on exec.
private struct Pipe {
    var reading: Int32
    var writing: Int32

    init() throws {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else {
            throw Settings.Failure(description: "no pipe: \(String(cString: strerror(errno)))")
        }
        // Not at once, but no child of ours takes over more than it is given (CSpawn).
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (reading, writing) = (ends[0], ends[1])
    }

    /// A pipe that holds `bytes` and then ends: nobody has to write while the program runs, and none that does not read
    /// stops anybody.
    init(holding bytes: [UInt8]) throws {
        try self.init()
        let count = bytes.withUnsafeBytes { write(writing, $0.baseAddress, min($0.count, 61_440)) }
        close(writing)
        writing = -1
        guard count >= 0 else {
            close(reading)
            throw Settings.Failure(description: "no pipe: \(String(cString: strerror(errno)))")
        }
    }
}

/// The last of what a program prints.
private final class OutputTail: Sendable {
    private let bytes = Mutex<[UInt8]>([])

    func add(_ new: ByteBufferView) {
        bytes.withLock { bytes in
            bytes += new
            if bytes.count > 2 * BoundedRun.outputBytes { bytes.removeFirst(bytes.count - BoundedRun.outputBytes) }
        }
    }

    var text: String { String(decoding: bytes.withLock { $0.suffix(BoundedRun.outputBytes) }, as: UTF8.self) }
}

private final class OutputReader: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let tail: OutputTail

    init(_ tail: OutputTail) { self.tail = tail }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { tail.add(unwrapInboundIn(data).readableBytesView) }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
