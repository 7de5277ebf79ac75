// SPDX-License-Identifier: Apache-2.0

extension HashRing {
    /// What can stand on a ring: a text, bytes, a number, and types of your own.
    ///
    /// Two processes agree on a key if they agree on its bytes, so make them of something that does not depend on a
    /// language or a build:
    ///
    /// ```swift
    /// struct AccountID: HashRing.Key {
    ///     var number: UInt64
    ///     func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
    ///         number.withRingBytes(body)
    ///     }
    /// }
    /// ```
    public protocol Key {
        /// Calls `body` once with the key's bytes, which may be none, and returns its result. The bytes need to be
        /// valid during the call only.
        func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result
    }
}

extension String: HashRing.Key {
    /// The text's UTF-8, as it is: no normal form is made of it.
    @inlinable
    public func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        if let result = utf8.withContiguousStorageIfAvailable({ body(UnsafeRawBufferPointer($0)) }) { return result }
        return Array(utf8).withUnsafeBytes { body($0) }
    }
}

extension Substring: HashRing.Key {
    /// The text's UTF-8, as it is: no normal form is made of it.
    @inlinable
    public func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        if let result = utf8.withContiguousStorageIfAvailable({ body(UnsafeRawBufferPointer($0)) }) { return result }
        return Array(utf8).withUnsafeBytes { body($0) }
    }
}

extension UInt64: HashRing.Key {
    /// The number's eight bytes, the lowest first.
    @inlinable
    public func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeBytes(of: littleEndian) { body($0) }
    }
}

extension Array: HashRing.Key where Element == UInt8 {
    /// The bytes.
    @inlinable
    public func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeBytes { body($0) }
    }
}

extension ArraySlice: HashRing.Key where Element == UInt8 {
    /// The bytes.
    @inlinable
    public func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeBytes { body($0) }
    }
}

extension UnsafeRawBufferPointer: HashRing.Key {
    /// The bytes. They must stay valid during the call.
    @inlinable
    public func withRingBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result { body(self) }
}
