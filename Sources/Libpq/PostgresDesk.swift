// SPDX-License-Identifier: Apache-2.0
//
// The desk between the callers and the thread that has the connection: the questions, which caller waits for which
// answer, and a pair of sockets that wakes the thread from whatever it waits for.
import NIOCore
import RingfencePlatform
import Synchronization

/// The questions to one connection and their answers.
final class PostgresDesk: Sendable {
    struct Question {
        var number: Int
        var text: String
    }

    private struct State {
        var asked = 0
        var answered = 0
        var questions: [Question] = []
        var waiting: [Int: EventLoopPromise<PostgresClient.Answer>] = [:]
        /// Nothing is answered any more, and this is why.
        var end: PostgresError?
    }

    private let state = Mutex(State())
    /// The reading end, and the writing one.
    private let bell: (Int32, Int32)

    init() throws(PostgresError) {
        var ends: [Int32] = [0, 0]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else {
            throw PostgresError("no socket: \(String(cString: strerror(errno)))")
        }
        bell = (ends[0], ends[1])
    }

    deinit {
        close(bell.0)
        close(bell.1)
    }

    // MARK: - Those who ask

    var isOver: Bool { state.withLock { $0.end != nil } }
    /// Questions without an answer.
    var open: Int { state.withLock { $0.asked - $0.answered } }

    /// Adds a question. Returns its number; nil: the answer was given at once.
    func ask(_ text: String, _ promise: EventLoopPromise<PostgresClient.Answer>) -> Int? {
        let (number, end) = state.withLock { state -> (Int?, PostgresError?) in
            if let end = state.end { return (nil, end) }
            state.asked += 1
            state.questions.append(Question(number: state.asked, text: text))
            state.waiting[state.asked] = promise
            return (state.asked, nil)
        }
        if let end { promise.succeed(.failed(end)) } else { wake() }
        return number
    }

    /// Nobody waits for the answer any longer.
    func giveUp(_ number: Int) {
        state.withLock { $0.waiting.removeValue(forKey: number) }?.succeed(.timedOut)
    }

    /// Answers all questions, from now on, with `why`.
    func end(_ why: PostgresError) {
        let waiting = state.withLock { state in
            if state.end == nil { state.end = why }
            state.questions = []
            defer { state.waiting = [:] }
            return state.waiting
        }
        for promise in waiting.values { promise.succeed(.failed(why)) }
        wake()
    }

    private func wake() {
        // A full one wakes as well.
        _ = write(bell.1, [0], 1)
    }

    // MARK: - The thread

    /// Waits for a question. One that nobody waits for any longer is not asked.
    ///
    /// - Throws: the end.
    func next() throws(PostgresError) -> Question {
        while true {
            let question = state.withLock { state -> Question? in
                while !state.questions.isEmpty {
                    let question = state.questions.removeFirst()
                    if state.waiting[question.number] != nil { return question }
                    state.answered = question.number
                }
                return nil
            }
            if let question { return question }
            try wait(-1, 0, until: nil)
        }
    }

    func answer(_ question: Question, _ answer: PostgresClient.Answer) {
        let promise = state.withLock { state in
            state.answered = question.number
            return state.waiting.removeValue(forKey: question.number)
        }
        promise?.succeed(answer)
    }

    /// Waits for `events` of a descriptor; for none, -1, until it is woken. Returns what there is.
    ///
    /// - Throws: the end, or at `deadline`.
    @discardableResult
    func wait(
        _ descriptor: Int32, _ events: Int32, until deadline: ContinuousClock.Instant?
    ) throws(PostgresError) -> Int32 {
        var waiting = [
            pollfd(fd: bell.0, events: Int16(POLLIN), revents: 0),
            pollfd(fd: descriptor, events: Int16(events), revents: 0),
        ]
        while true {
            if let end = state.withLock({ $0.end }) { throw end }
            let left = deadline.map { Int32(max(0, min(60_000, ($0 - .now) / .milliseconds(1) + 1))) } ?? -1
            if let deadline, ContinuousClock.now >= deadline { throw PostgresError("timeout expired") }
            guard poll(&waiting, nfds_t(waiting.count), left) >= 0 || errno == EINTR else {
                throw PostgresError("poll: \(String(cString: strerror(errno)))")
            }
            if waiting[0].revents != 0 {
                var bytes = [UInt8](repeating: 0, count: 64)
                while read(bell.0, &bytes, bytes.count) > 0 {}
                waiting[0].revents = 0
                if descriptor < 0 { return 0 }
            }
            let seen = Int32(waiting[1].revents)
            // An error or a hang-up is for libpq to find.
            if seen != 0 { return seen & (POLLERR | POLLHUP | POLLNVAL) == 0 ? seen : seen | events }
        }
    }
}
