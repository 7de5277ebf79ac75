// SPDX-License-Identifier: Apache-2.0
//
// What the client's tasks and its event loop share: the queue behind one lock, and the rules by which callers are told.
//
// Nothing is resumed, logged or called back under the lock.
import Logging
import NIOCore
import Synchronization

/// Looks at a task from outside, without owning it.
///
/// An `UnsafeCurrentTask` retains its task, and the release comes after the task was resumed. But an `async let` task
/// lives in its parent's memory, which is gone by then: the release would write into whatever is there now (seen as a
/// crash in the task allocator). So only the bits are kept.
// SAFETY: `isCancelled` is asked only while the slot is live, under the queue's lock: until it is popped nobody resumes
// the continuation beside it, so the task is alive.
struct TaskReference: Sendable {
    private let bits: UInt

    init(_ task: UnsafeCurrentTask) { bits = unsafeBitCast(task, to: UInt.self) }

    var isCancelled: Bool { unsafeBitCast(bits, to: UnsafeCurrentTask.self).isCancelled }
}

/// The receiver of a reply.
enum Waiter: Sendable {
    case task(TrustedContinuation<Result<RedisReply, RedisError>, Never>, TaskReference?)
    /// Called on the event loop.
    case callback(@Sendable (Result<RedisReply, RedisError>) -> Void)
    /// Called on the event loop.
    case script(any ScriptRequest)
    /// Our own PING.
    case probe

    var isCancelled: Bool {
        if case .task(_, let task?) = self { task.isCancelled } else { false }
    }
}

// SAFETY: shared state is in the Mutex; the rest is touched on the event loop only.
final class CommandCore: ConnectionOwner, @unchecked Sendable {
    private struct State: ~Copyable, Sendable {
        var queue: CommandQueue<Waiter>
        /// A flush is on its way to the event loop.
        var isKicked = false
        /// When the flush on its way was asked for.
        var stamp: Int64 = 0
        var isClosed = false
        var connection: ConnectionInfo?
        /// Why there is no connection; nil while there is one.
        var absence: RedisError? = RedisError(.notConnected, effect: .none, "the first attempt has not ended yet")
    }

    private static let sweepInterval = TimeAmount.milliseconds(10)

    private let eventLoop: any EventLoop
    private let driver: ConnectionDriver<CommandCore>
    private let commandTimeout: Int64
    private let onConnection: (@Sendable (ConnectionInfo) -> Void)?
    private let state: Mutex<State>

    // On the event loop only.
    private var outgoing = ByteBuffer()
    private var answered: [(waiter: Waiter, reply: RedisReply)] = []
    private var isSweeping = false

    init(
        _ configuration: RedisConfiguration, eventLoop: any EventLoop, logger: Logger,
        onConnection: (@Sendable (ConnectionInfo) -> Void)?
    ) {
        self.eventLoop = eventLoop
        self.onConnection = onConnection
        driver = ConnectionDriver(configuration, eventLoop: eventLoop, logger: logger)
        commandTimeout = Self.nanoseconds(configuration.commandTimeout)
        let limits = CommandQueue<Waiter>.Limits(
            commands: configuration.maximumCommandsInFlight, bytes: configuration.maximumBytesInFlight)
        state = Mutex(State(queue: CommandQueue(limits: limits)))
    }

    var connection: ConnectionInfo? { state.withLock { $0.connection } }
    var isConnected: Bool { state.withLock { $0.connection != nil } }

    // MARK: submission, from any thread

    func answer(
        replies: Int, isSingle: Bool, deadline: Duration?, _ encode: (inout CommandWriter) -> Void
    ) async -> Result<RedisReply, RedisError> {
        await withTrustedContinuation { continuation in
            withUnsafeCurrentTask { task in
                if let task, task.isCancelled {
                    let error = RedisError(
                        .cancelled, effect: .none, "the task was cancelled before the command was sent")
                    return continuation.resume(returning: .failure(error))
                }
                submit(
                    .task(continuation, task.map(TaskReference.init)), replies: replies, isSingle: isSingle,
                    deadline: deadline, encode)
            }
        }
    }

    /// Returns the number of its slot; 0 when it was refused.
    @discardableResult
    func submit(
        _ waiter: Waiter, replies: Int, isSingle: Bool, deadline: Duration?, _ encode: (inout CommandWriter) -> Void
    ) -> UInt64 {
        let patience = deadline.map(Self.nanoseconds) ?? commandTimeout
        var refusal: RedisError?
        var number: UInt64 = 0
        let kicks = state.withLock { state in
            guard !state.isClosed else {
                refusal = Self.closed(wasWritten: false)
                return false
            }
            // One look at the clock for a batch (5 % of our time when it was one for a command): a flush on its way is
            // microseconds off, and should it ever be longer, deadlines come early, never late.
            if !state.isKicked { state.stamp = monotonicNow() }
            let refused = state.queue.submit(
                waiter, replies: replies, isSingle: isSingle, deadline: saturating(state.stamp, patience), encode)
            if let refused {
                let what = refused == .tooManyBytes ? "bytes" : "commands"
                refusal = RedisError(.overloaded, effect: .none, "too many \(what) are waiting for an answer")
                return false
            }
            number = state.queue.submitted
            if state.isKicked { return false }
            state.isKicked = true
            return true
        }
        if let refusal {
            fail(waiter, refusal)
        } else if kicks {
            kick()
        }
        return number
    }

    func withdraw(_ number: UInt64) -> Bool { state.withLock { $0.queue.withdraw(number) } }

    func wasWritten(_ number: UInt64) -> Bool { state.withLock { $0.queue.wasWritten(number) } }

    var absence: RedisError? { state.withLock { $0.absence } }

    private func fail(_ waiter: Waiter, _ error: RedisError) {
        switch waiter {
        case .task, .probe: waiter.finish(.failure(error), of: self)
        case .callback, .script: eventLoop.execute { waiter.finish(.failure(error), of: self) }
        }
    }

    func kick() { eventLoop.execute { self.flush() } }

    // MARK: on the event loop

    private func flush() {
        let now = monotonicNow()
        var ended: [CommandQueue<Waiter>.Ended] = []
        var absence: RedisError?
        outgoing.clear()
        let (isClosed, isIdle) = state.withLock { state in
            state.isKicked = false
            guard !state.isClosed else { return (true, true) }
            if state.connection != nil {
                // Nothing late is ever written, also when this process was stopped for a minute.
                if state.queue.needsSweep(now: now) { ended = state.queue.sweep(now: now) { $0.isCancelled } }
                state.queue.takeUnwritten { outgoing.writeBytes($0) }
            }
            absence = state.absence
            return (false, state.queue.live == 0 && !state.queue.hasWithdrawn)
        }
        if isClosed { return }
        if outgoing.readableBytes > 0 {
            driver.write(outgoing)
            if outgoing.capacity > 1 << 20 { outgoing = ByteBuffer() }
        }
        finish(ended, absence)
        driver.start(self)
        if !isIdle { sweepLater() }
    }

    private func sweepLater() {
        guard !isSweeping else { return }
        isSweeping = true
        // Not weak: every retain and release of an object that is referred to weakly takes a longer way, and there are
        // several for a command. It goes on only while somebody waits for an answer.
        eventLoop.scheduleTask(in: Self.sweepInterval) { self.sweep() }
    }

    private func sweep() {
        isSweeping = false
        let now = monotonicNow()
        var absence: RedisError?
        var isIdle = true
        let ended = state.withLock { state in
            let ended = state.queue.sweep(now: now) { $0.isCancelled }
            absence = state.absence
            isIdle = state.queue.live == 0
            return ended
        }
        finish(ended, absence)
        if !isIdle { sweepLater() }
    }

    private func finish(_ ended: [CommandQueue<Waiter>.Ended], _ absence: RedisError?) {
        for slot in ended {
            let effect: RedisError.Effect = slot.wasWritten ? .unknown : .none
            let error =
                if !slot.isLate {
                    RedisError(.cancelled, effect: effect, "the task was cancelled while it waited for the answer")
                } else if !slot.wasWritten, let absence {
                    RedisError(
                        .notConnected, effect: .none, "no connection within the deadline; last: \(absence.message)",
                        server: absence.server, fault: absence.fault)
                } else {
                    RedisError(.timedOut, effect: effect, "no answer within the deadline")
                }
            slot.waiter.finish(.failure(error), of: self)
        }
    }

    // MARK: the connection

    func connectionIsReady(_ info: ConnectionInfo) {
        state.withLock { state in
            state.connection = info
            state.absence = nil
        }
        onConnection?(info)
        flush()
    }

    func connectionReceived(_ replies: [RedisReply]) -> Bool {
        let isMatched = state.withLock { $0.queue.complete(replies, &answered) }
        // A callback may submit, close and so on: all of that comes back to us through the event loop, later.
        for index in answered.indices {
            let (waiter, reply) = answered[index]
            waiter.finish(.success(reply), of: self)
        }
        answered.removeAll(keepingCapacity: answered.count < 4096)
        return isMatched
    }

    func connectionWasLost(_ error: RedisError) -> Bool {
        let (ended, hadUnanswered) = state.withLock { state in
            state.connection = nil
            state.absence = error
            // Tombstones count: a command that timed out may still be on its way to the server.
            let hadUnanswered = state.queue.written > 0
            return (state.queue.loseWritten(), hadUnanswered)
        }
        for slot in ended {
            slot.waiter.finish(.failure(RedisError(error.code, effect: .unknown, error.message)), of: self)
        }
        return hadUnanswered
    }

    func connectionWasRefused(_ error: RedisError) {
        let ended = state.withLock { $0.queue.failUnwritten() }
        for slot in ended { slot.waiter.finish(.failure(error), of: self) }
    }

    func connectionNeedsProbe() {
        submit(.probe, replies: 1, isSingle: true, deadline: .seconds(3600)) { writer in
            writer.begin(1)
            writer.argument("PING")
        }
    }

    // MARK: the end

    func close() -> EventLoopFuture<Void> {
        eventLoop.flatSubmit {
            let (written, unwritten) = self.state.withLock { state in
                state.isClosed = true
                state.connection = nil
                let written = state.queue.loseWritten()
                return (written, state.queue.failUnwritten())
            }
            for slot in written + unwritten {
                slot.waiter.finish(.failure(Self.closed(wasWritten: slot.wasWritten)), of: self)
            }
            return self.driver.close()
        }
    }

    private static func closed(wasWritten: Bool) -> RedisError {
        RedisError(.closed, effect: wasWritten ? .unknown : .none, "the client is closed")
    }

    private static func nanoseconds(_ duration: Duration) -> Int64 {
        let (seconds, attoseconds) = duration.components
        let (whole, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? (seconds < 0 ? 0 : .max) : max(0, saturating(whole, attoseconds / 1_000_000_000))
    }
}

private func saturating(_ left: Int64, _ right: Int64) -> Int64 {
    let (sum, overflow) = left.addingReportingOverflow(right)
    return overflow ? .max : sum
}
