// SPDX-License-Identifier: Apache-2.0
//
// A subscription as an AsyncSequence, for consumers that take their time.
//
// The buffer has a limit. AsyncStream would drop silently at it, and a silently missing message is the worst kind: so
// what does not fit is counted, and one `overflowed(lost:)` stands in its place.
package import Logging
package import NIOCore
import NIOPosix
import Synchronization

/// The events of a subscription, buffered up to a limit. One consumer; ends when it is closed or its task is cancelled.
///
/// After `overflowed` anything may have been lost, `disconnected` and `subscribed` included: read the state anew.
package final class RedisEventStream: AsyncSequence, Sendable {
    package typealias Element = RedisSubscriber.Event

    private let buffer: EventBuffer
    private let subscriber: RedisSubscriber

    /// Subscribes at once.
    package init(
        _ configuration: RedisConfiguration, channels: [String], bufferLimit: Int = 1024,
        eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.any(), logger: Logger
    ) {
        let buffer = EventBuffer(limit: bufferLimit)
        self.buffer = buffer
        subscriber = RedisSubscriber(
            configuration, channels: channels, eventLoop: eventLoop, logger: logger, onEvent: { buffer.add($0) })
        subscriber.start()
    }

    deinit { buffer.finish() }

    /// Ends the subscription; the consumer gets what is buffered, then the end. Idempotent.
    package func close() async {
        await subscriber.close()
        buffer.finish()
    }

    /// Events that wait for the consumer, an `overflowed` among them counted as one.
    package var buffered: Int { buffer.count }

    package func makeAsyncIterator() -> Iterator { Iterator(stream: self) }

    package struct Iterator: AsyncIteratorProtocol {
        fileprivate let stream: RedisEventStream
        package mutating func next() async -> RedisSubscriber.Event? { await stream.buffer.next() }
        package mutating func next(isolation: isolated (any Actor)?) async -> RedisSubscriber.Event? {
            await stream.buffer.next()
        }
    }
}

/// A bounded queue from the event loop to one consumer.
final class EventBuffer: Sendable {
    private struct State {
        var events: [RedisSubscriber.Event] = []
        var head = 0
        var consumer: CheckedContinuation<RedisSubscriber.Event?, Never>?
        var isFinished = false

        mutating func take() -> RedisSubscriber.Event? {
            guard head < events.count else { return nil }
            let event = events[head]
            head += 1
            if head == events.count {
                events.removeAll(keepingCapacity: true)
                head = 0
            } else if head >= 1024, head * 2 > events.count {
                events.removeFirst(head)
                head = 0
            }
            return event
        }
    }

    private let limit: Int
    private let state = Mutex(State())

    init(limit: Int) {
        precondition(limit > 0)
        self.limit = limit
    }

    var count: Int { state.withLock { $0.events.count - $0.head } }

    func add(_ event: RedisSubscriber.Event) {
        let consumer = state.withLock { state -> CheckedContinuation<RedisSubscriber.Event?, Never>? in
            if state.isFinished { return nil }
            if let consumer = state.consumer {
                state.consumer = nil
                return consumer
            }
            if state.events.count - state.head < limit {
                state.events.append(event)
            } else if case .overflowed(let lost) = state.events.last {
                state.events[state.events.count - 1] = .overflowed(lost: lost + 1)
            } else {
                state.events.append(.overflowed(lost: 1))
            }
            return nil
        }
        consumer?.resume(returning: event)
    }

    func next() async -> RedisSubscriber.Event? {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                // Looked up under the lock, so that a cancellation either is seen here or finds the consumer.
                let now: RedisSubscriber.Event?? = state.withLock { state in
                    precondition(state.consumer == nil, "a RedisEventStream has one consumer")
                    if let event = state.take() { return event }
                    if state.isFinished || Task.isCancelled { return .some(nil) }
                    state.consumer = continuation
                    return nil
                }
                if let now { continuation.resume(returning: now) }
            }
        } onCancel: {
            wake()
        }
    }

    func finish() {
        state.withLock { $0.isFinished = true }
        wake()
    }

    private func wake() {
        let consumer = state.withLock { state in
            defer { state.consumer = nil }
            return state.consumer
        }
        consumer?.resume(returning: nil)
    }
}
