// swift-tools-version:6.2
// SPDX-License-Identifier: Apache-2.0
//
// The arrows point one way:
//
//   CHiredis <- Hiredis <- Ringfence <- RingfenceOperations <- RingfenceHTTP, RingfenceAgent, RingfenceConsole
//   RingfenceCore <- RingfenceCacheCore <- RingfenceCache -> Ringfence
//   RingfenceCore <- RingfenceAgentCore <- RingfenceAgent -> RingfenceOperations
//        CXXHash <- RingfenceCore <- Ringfence        CThreadNumber <- Ringfence      CSpawn <- RingfenceOperations
//        CLibpq <- Libpq <- RingfenceAgent               RingfencePlatform (the C library) <- all
//
//   RingfenceCommand (the executable `ringfence`) has all of these, RingfenceBench (`ringfence-bench`) the console.
//
// Who links the library pays for SwiftNIO, NIOSSL, swift-log, swift-metrics and ServiceLifecycle only: Hummingbird and
// ArgumentParser belong to the service and the executable. SwiftPM resolves all that a manifest names, used or not, so
// what only the service needs is named only where Ringfence is the package at hand and not somebody's dependency.
import Foundation
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .treatAllWarnings(as: .error),
]

// A dependency is read from its repository, at the root of nothing, or from where SwiftPM put it for its user: in the
// folder `checkouts`, beside the file in which it notes what it put there. A folder of that name alone means nothing.
let isDependency: Bool = {
    let checkouts = URL(fileURLWithPath: Context.packageDirectory).deletingLastPathComponent()
    let state = checkouts.deletingLastPathComponent().appendingPathComponent("workspace-state.json")
    return Context.packageDirectory == "/"
        || checkouts.lastPathComponent == "checkouts" && FileManager.default.fileExists(atPath: state.path)
}()

// The simulations play hours of a group's life, and the explorations visit thousands of states: five times as many in
// the same time with the optimizer. Overflows and broken preconditions trap all the same. A dependency by URL may not
// have such flags.
let thorough: [SwiftSetting] = isDependency ? [] : [.unsafeFlags(["-O"], .when(configuration: .debug))]

/// A process for tests to start and to end.
func testProgram(_ name: String) -> Target {
    .executableTarget(
        name: name,
        dependencies: ["RingfencePlatform", "Ringfence", .product(name: "Logging", package: "swift-log")],
        path: "Tests/\(name)",
        swiftSettings: strict
    )
}

let package = Package(
    name: "ringfence",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "Ringfence", targets: ["Ringfence"]),
        .library(name: "RingfenceCache", targets: ["RingfenceCache"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        .target(
            name: "CHiredis",
            linkerSettings: [.linkedLibrary("hiredis")]
        ),
        // The system's C library, whichever it is, under one name.
        .target(name: "RingfencePlatform", swiftSettings: strict),
        // A reference that is replaced while others read it.
        .target(name: "CPublished"),
        // A small number for each thread.
        .target(name: "CThreadNumber"),
        .target(
            name: "Hiredis",
            dependencies: [
                "RingfencePlatform",
                "CHiredis",
                "CPublished",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        // Header only: XXH3 from libxxhash-dev, and the ring's comparison of a block.
        .target(name: "CXXHash"),
        .target(
            name: "RingfenceCore", dependencies: ["RingfencePlatform", "CXXHash"], swiftSettings: strict + thorough),
        .target(
            name: "Ringfence",
            dependencies: [
                "RingfencePlatform",
                "CThreadNumber",
                "RingfenceCore",
                "Hiredis",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            resources: [.embedInCode("Scripts")],
            swiftSettings: strict
        ),
        // Values on several servers: who links locks links no replicated store.
        .target(name: "RingfenceCacheCore", dependencies: ["RingfenceCore"], swiftSettings: strict + thorough),
        .target(
            name: "RingfenceCache",
            dependencies: [
                "Ringfence",
                "RingfenceCacheCore",
                "RingfenceCore",
                "Hiredis",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
            ],
            resources: [.embedInCode("Scripts")],
            swiftSettings: strict
        ),
    ]
)

if !isDependency || Context.environment["RINGFENCE_SERVICE"] != nil {
    package.products += [
        .executable(name: "ringfence", targets: ["RingfenceCommand"]),
        .executable(name: "ringfence-bench", targets: ["RingfenceBench"]),
    ]
    package.dependencies += [
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0", traits: []),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0", traits: []),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    ]
    package.targets += [
        // fork and exec with what posix_spawn cannot do: a child that dies with its parent.
        .target(name: "CSpawn"),
        // libpq's functions, loaded when they are needed.
        .target(name: "CLibpq", linkerSettings: [.linkedLibrary("dl", .when(platforms: [.linux]))]),
        // A session with PostgreSQL, for the agent's check.
        .target(
            name: "Libpq",
            dependencies: [
                "RingfencePlatform",
                "CLibpq",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            swiftSettings: strict
        ),
        // What operators do and see, and what every program needs for it: settings, the doctor, histories, JSON,
        // processes, metrics.
        .target(
            name: "RingfenceOperations",
            dependencies: [
                "RingfencePlatform",
                "CSpawn",
                "Hiredis",
                "Ringfence",
                "RingfenceCore",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            swiftSettings: strict
        ),
        // The HTTP service. Nothing else knows of the web framework.
        .target(
            name: "RingfenceHTTP",
            dependencies: [
                "RingfencePlatform",
                "Hiredis",
                "Ringfence",
                "RingfenceCore",
                "RingfenceOperations",
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOHTTPTypes", package: "swift-nio-extras"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            resources: [.embedInCode("openapi.json")],
            swiftSettings: strict
        ),
        .target(name: "RingfenceAgentCore", dependencies: ["RingfenceCore"], swiftSettings: strict + thorough),
        // What stands beside a database, cache or service, and fails it over.
        .target(
            name: "RingfenceAgent",
            dependencies: [
                "RingfencePlatform",
                "RingfenceAgentCore",
                "Hiredis",
                "Libpq",
                "Ringfence",
                "RingfenceCore",
                "RingfenceOperations",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            swiftSettings: strict
        ),
        // What the programs share: standard output, exit codes, a Redis to try things on.
        .target(
            name: "RingfenceConsole",
            dependencies: [
                "RingfencePlatform",
                "RingfenceOperations",
                "Hiredis",
                "Ringfence",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "RingfenceCommand",
            dependencies: [
                "RingfencePlatform",
                "RingfenceConsole",
                "RingfenceOperations",
                "RingfenceHTTP",
                "RingfenceAgent",
                "Hiredis",
                "Ringfence",
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            resources: [.embedInCode("Demo/Scripts")],
            swiftSettings: strict
        ),
        // The reference of the benchmarks: C on hiredis' own loop and blocking calls, and Envoy's ring.
        .target(name: "CBenchReference", dependencies: ["CHiredis"]),
        .executableTarget(
            name: "RingfenceBench",
            dependencies: [
                "RingfencePlatform", "RingfenceConsole", "RingfenceOperations", "CBenchReference", "Hiredis",
                "Ringfence", "RingfenceCache", "TestServers",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict
        ),
        // Real servers, started and ended: for tests and for benchmarks.
        .target(
            name: "TestServers",
            dependencies: ["RingfencePlatform", "CSpawn", .product(name: "NIOPosix", package: "swift-nio")],
            path: "Tests/TestServers",
            swiftSettings: strict
        ),
        // A proxy that cuts, models, a condition to wait for: what every test target shares.
        .target(
            name: "TestSupport",
            dependencies: [
                "RingfencePlatform",
                "TestServers",
                "RingfenceCore",
                "RingfenceCacheCore",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            path: "Tests/TestSupport",
            // Compiled by the tests that preload it.
            exclude: ["ClockShim/clockshim.c"],
            swiftSettings: strict + thorough
        ),
        // A lock holder that does what it is told, to be killed and frozen.
        testProgram("TestHolder"),
        // A subscriber of the event log, to be killed.
        testProgram("TestSubscriber"),
        // A member of a group that does what it is told, to be killed and frozen.
        testProgram("TestMember"),
        // A process that uses all of it, beside others, while Redis fails over.
        testProgram("TestCaller"),
        // A process that wants to be primary, and writes down when it was.
        testProgram("TestPrimary"),
        // A lock holder in a process of its own, to be stopped in the middle of its work.
        testProgram("StoppedHolder"),
        // Counts what a ring and a balancer allocate.
        .target(name: "MallocCounter", path: "Tests/MallocCounter"),
        .executableTarget(
            name: "Allocations",
            dependencies: ["RingfencePlatform", "MallocCounter", "Ringfence"],
            path: "Tests/Allocations",
            swiftSettings: strict
        ),
        .testTarget(
            name: "RingfenceCoreTests",
            dependencies: [
                "RingfencePlatform", "RingfenceCore", "RingfenceCacheCore", "RingfenceAgentCore", "CXXHash",
                "TestSupport",
            ],
            // What judges the JSON reader, in another language: read where it is.
            exclude: ["JSON/judge.py"],
            swiftSettings: strict + thorough
        ),
        .testTarget(
            name: "HiredisTests",
            dependencies: [
                "RingfencePlatform",
                "Hiredis", "CHiredis", "TestSupport",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "RingfenceTests",
            dependencies: [
                "RingfencePlatform", "Ringfence", "RingfenceCache", "RingfenceCacheCore", "RingfenceCore", "Hiredis",
                "CThreadNumber", "TestSupport", "StoppedHolder", "TestCaller", "TestHolder", "TestMember",
                "TestPrimary", "TestSubscriber", "Allocations",
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "MetricsTestKit", package: "swift-metrics"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            // The ring in another language, and what it says: read where they are.
            exclude: ["Ring/ring.py", "Ring/vectors.json"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "ProgramTests",
            dependencies: [
                "RingfencePlatform",
                // The programs themselves are started by the tests.
                "RingfenceCommand", "RingfenceBench",
                "RingfenceHTTP", "RingfenceAgent", "RingfenceAgentCore", "RingfenceOperations", "Libpq", "Ringfence",
                "RingfenceCore", "Hiredis",
                "TestSupport",
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOEmbedded", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            swiftSettings: strict
        ),
        // Databases, caches and services with agents, failed over: docker/examples, run as it is.
        .testTarget(
            name: "ScenarioTests",
            dependencies: [
                "RingfencePlatform",
                // The program itself is started by the tests.
                "RingfenceCommand",
                "RingfenceOperations", "Ringfence", "RingfenceCache", "TestSupport",
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "RingfenceCommandTests",
            dependencies: [
                "RingfencePlatform",
                "RingfenceCommand", "RingfenceConsole", "RingfenceOperations", "Ringfence", "Hiredis", "TestSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "RingfenceBenchTests",
            dependencies: [
                "RingfenceBench", "RingfenceConsole", "Ringfence", "Hiredis", "TestSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
    ]
}

// What is built for the thread sanitizer (.ci/run): to instrument all would take longer than most tests.
if Context.environment["RINGFENCE_PURE"] != nil {
    let pure: Set = [
        "RingfencePlatform",
        "CXXHash", "RingfenceCore", "RingfenceCacheCore", "RingfenceAgentCore", "CSpawn",
        "TestServers", "TestSupport", "RingfenceCoreTests",
    ]
    package.products = []
    package.targets.removeAll { !pure.contains($0.name) }
}
