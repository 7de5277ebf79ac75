// SPDX-License-Identifier: Apache-2.0
//
// A continuation that is checked where there is time for it. Resumed twice, an unchecked one crashes only sometimes;
// debug builds, and so the tests, crash always. In release builds it costs nothing: one is made for each command.

#if DEBUG
    @usableFromInline
    package typealias TrustedContinuation<Success, Failure: Error> = CheckedContinuation<Success, Failure>
#else
    @usableFromInline
    package typealias TrustedContinuation<Success, Failure: Error> = UnsafeContinuation<Success, Failure>
#endif

@inlinable @inline(__always)
package nonisolated(nonsending) func withTrustedContinuation<Success>(
    _ body: (TrustedContinuation<Success, Never>) -> Void
) async -> Success {
    #if DEBUG
        return await withCheckedContinuation(body)
    #else
        return await withUnsafeContinuation(body)
    #endif
}

@inlinable @inline(__always)
package nonisolated(nonsending) func withTrustedThrowingContinuation<Success>(
    _ body: (TrustedContinuation<Success, any Error>) -> Void
) async throws -> Success {
    #if DEBUG
        return try await withCheckedThrowingContinuation(body)
    #else
        return try await withUnsafeThrowingContinuation(body)
    #endif
}
