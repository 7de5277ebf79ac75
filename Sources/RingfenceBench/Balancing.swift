// SPDX-License-Identifier: Apache-2.0
//
// `ringfence-bench balancer`: what a pick costs, alone and with another thread that picks too, and what picking well is
// worth.
//
// A pick is timed as a lookup of the ring is: eight thousand at a time, the median of these. So are two threads that
// pick at once, each for itself, for one thread and for two in turn: were they to wait for each other, every part would
// show it.
//
// The tail is measured on ten servers in this process, on real sockets, of which one takes twenty times as long. The
// same callers call them by round robin and by least load, turn about; both lists of members come from a real group.

import Logging
import NIOCore
import NIOPosix
import Ringfence
import RingfenceConsole

/// What a pick costs; needs no Redis.
struct Picks {
    static let partLength = 8_192

    let seconds: Double
    let rounds: Int

    private static let members = (0..<10).map { (id: "a-member-of-ten-\($0)", weight: $0 % 4 + 1, zone: "") }

    func run(report: (Figure) -> Void) async throws {
        for (policy, bar) in [
            (BalancePolicy.roundRobin, 100.0), (.weighted, 100), (.random, nil), (.leastLoaded, 200), (.peakEWMA, nil),
        ] {
            let balancer = try Balancer(policy, members: Self.members)
            report(
                try figure("pick.\(policy)", bar: bar) { _ in try balancer.pick().id.utf8.count })
        }
        let ring = try Balancer(.ringHash, members: Self.members)
        report(
            try figure("pick.ringHash", bar: 150) { number in try ring.pick(key: UInt64(number)).id.utf8.count })
        report(try await threads())
        report(try await calls())
    }

    private func figure(_ name: String, bar: Double?, _ pick: (Int) throws -> Int) throws -> Figure {
        var values: [Double] = []
        for _ in 0..<rounds { values.append(try time(pick)) }
        return Figure(
            name: name, unit: "ns", value: Statistics.median(values), trials: values.count,
            bar: bar.map { .valueAtMost($0) })
    }

    /// The nanoseconds of one pick.
    private func time(_ pick: (Int) throws -> Int) throws -> Double { try Self.time(seconds, pick) }

    private static func time(_ seconds: Double, _ pick: (Int) throws -> Int) throws -> Double {
        let clock = ContinuousClock()
        let start = clock.now
        var times: [Double] = []
        repeat {
            let before = clock.now
            var sum = 0
            for number in 0..<partLength { sum &+= try pick(number) }
            times.append((clock.now - before).nanoseconds / Double(partLength))
            guard sum > 0 else { throw CommandFailure("nobody was picked") }
        } while clock.now - start < .seconds(seconds)
        return Statistics.median(times)
    }

    // MARK: Two threads

    private func threads() async throws -> Figure {
        let balancer = try Balancer(.leastLoaded, members: Self.members)
        let loops = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let seconds = seconds
        // Picks in a microsecond.
        @Sendable func pace(_ threads: Int) async throws -> Double {
            try await withThrowingTaskGroup(of: Double.self) { tasks in
                for loop in loops.makeIterator().prefix(threads) {
                    tasks.addTask {
                        try await loop.submit {
                            1000 / (try Self.time(seconds) { _ in try balancer.pick().id.utf8.count })
                        }.get()
                    }
                }
                return try await tasks.reduce(0, +)
            }
        }
        // The first round warms up.
        _ = try await pace(2)
        let rounds = try await Rounds.alternate(rounds) {
            try await pace(1)
        } ours: {
            try await pace(2)
        }
        try await loops.shutdownGracefully()
        return Figure(name: "pick.threads", unit: "picks/us", rounds: rounds, bar: .ratioAtLeast(1.8))
    }

    // MARK: Calls

    private func calls() async throws -> Figure {
        let balancer = try Balancer(.leastLoaded, members: Self.members)
        var values: [Double] = []
        for _ in 0..<rounds {
            let clock = ContinuousClock()
            let start = clock.now
            var times: [Double] = []
            repeat {
                let before = clock.now
                for _ in 0..<1024 { try await balancer.withMember { _ in } }
                times.append((clock.now - before).nanoseconds / 1024)
            } while clock.now - start < .seconds(seconds)
            values.append(Statistics.median(times))
        }
        return Figure(name: "call.leastLoaded", unit: "ns", value: Statistics.median(values), trials: values.count)
    }
}

/// One slow server of ten.
struct BalancedTail: Sendable {
    static let namespace = "bench-balancer"
    static let servers = 10
    static let callers = 64
    static let usual = TimeAmount.milliseconds(50)
    static let slow = TimeAmount.seconds(1)

    let settings: BenchSettings

    func run(report: (Figure) -> Void) async throws {
        let client = try RingfenceClient(
            .init(url: settings.redis.url, namespace: Self.namespace), logger: settings.logger)
        do {
            try await tails(client, report: report)
            await client.shutdown()
        } catch {
            await client.shutdown()
            throw error
        }
    }

    private func tails(_ client: RingfenceClient, report: (Figure) -> Void) async throws {
        let loops = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let group = try await client.group("servers")
        var servers: [any Channel] = []
        for number in 0..<Self.servers {
            let server = try await Self.server(on: loops, delay: number == 0 ? Self.slow : Self.usual)
            servers.append(server)
            _ = try await group.join(
                "server-\(number)", address: "\(server.localAddress?.port ?? 0)", lease: .seconds(60))
        }
        let ports = servers.compactMap { $0.localAddress?.port }
        let roundRobin = try group.balancer(.roundRobin)
        for (name, policy, bar) in [
            ("balancer.tail", BalancePolicy.leastLoaded, Figure.Bar.ratioAtMost(0.15)),
            ("balancer.tail.peakEWMA", .peakEWMA, nil),
        ] {
            let balancer = try group.balancer(policy)
            var latencies: [Double] = []
            let rounds = try await Rounds.alternate(settings.rounds) {
                Statistics.percentile(try await calls(roundRobin, ports, loops), 0.99) ?? 0
            } ours: {
                let own = try await calls(balancer, ports, loops)
                latencies += own
                return Statistics.percentile(own, 0.99) ?? 0
            }
            report(
                Figure(
                    name: name, unit: "ms p99", rounds: rounds, latencies: latencies.map { $0 * 1000 }, bar: bar))
        }
        for server in servers { try await server.close() }
        try await loops.shutdownGracefully()
    }

    /// The milliseconds of each call of a round.
    private func calls(
        _ balancer: Balancer, _ ports: [Int], _ loops: MultiThreadedEventLoopGroup
    ) async throws -> [Double] {
        let seconds = settings.seconds
        return try await withThrowingTaskGroup(of: [Double].self) { tasks in
            for _ in 0..<Self.callers {
                tasks.addTask {
                    var connections: [Int: any Channel] = [:]
                    for port in ports { connections[port] = try await Self.connection(to: port, on: loops) }
                    let clock = ContinuousClock()
                    let start = clock.now
                    var times: [Double] = []
                    repeat {
                        let before = clock.now
                        try await balancer.withMember { member in
                            guard let port = Int(member.address), let connection = connections[port] else {
                                throw CommandFailure("'\(member.address)' is not the port of a server")
                            }
                            let answer = connection.eventLoop.makePromise(of: Void.self)
                            connection.writeAndFlush(Question(answer: answer), promise: nil)
                            try await answer.futureResult.get()
                        }
                        times.append((clock.now - before).milliseconds)
                    } while clock.now - start < .seconds(seconds)
                    for connection in connections.values { try await connection.close() }
                    return times
                }
            }
            return try await tasks.reduce(into: []) { $0 += $1 }
        }
    }

    private static func server(on loops: MultiThreadedEventLoopGroup, delay: TimeAmount) async throws -> any Channel {
        try await ServerBootstrap(group: loops)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(LateEcho(delay: delay))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    private static func connection(to port: Int, on loops: MultiThreadedEventLoopGroup) async throws -> any Channel {
        try await ClientBootstrap(group: loops)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Asker())
                }
            }
            .connect(host: "127.0.0.1", port: port).get()
    }
}

/// Sends back each byte, some time later.
private final class LateEcho: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let delay: TimeAmount
    init(delay: TimeAmount) { self.delay = delay }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let buffer = unwrapInboundIn(data)
        let channel = context.channel
        context.eventLoop.scheduleTask(in: delay) { channel.writeAndFlush(buffer, promise: nil) }
    }
}

/// One byte to send, and whom to tell when it is back.
private struct Question: Sendable {
    var answer: EventLoopPromise<Void>
}

/// Asks one question at a time.
private final class Asker: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = Question
    typealias OutboundOut = ByteBuffer

    private var waiting: EventLoopPromise<Void>?

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        waiting = unwrapOutboundIn(data).answer
        context.write(wrapOutboundOut(ByteBuffer(bytes: [1])), promise: promise)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        waiting?.succeed()
        waiting = nil
    }

    func channelInactive(context: ChannelHandlerContext) {
        waiting?.fail(ChannelError.ioOnClosedChannel)
        waiting = nil
        context.fireChannelInactive()
    }
}
