// SPDX-License-Identifier: Apache-2.0

/// The fields of one JSON object, in order.
package struct JSONObject: Sendable, Hashable {
    package struct Field: Sendable, Hashable {
        package var name: String
        package var value: JSONValue
    }

    package private(set) var fields: [Field] = []

    /// The value of a field; nil when it is absent.
    package subscript(_ name: String) -> JSONValue? {
        for field in fields where field.name.hasSameBytes(as: name) { return field.value }
        return nil
    }

    /// Reads `bytes`.
    ///
    /// - Parameters:
    ///   - allowed: Other names are refused; nil: any name is taken. Names in inner objects are free.
    ///   - depth: How deep objects may lie in it.
    /// - Throws: ``JSONError``.
    package init(_ bytes: some Collection<UInt8>, allowed: [String]?, depth: Int = 0) throws(JSONError) {
        let found: Result<[Field], JSONError>? =
            bytes.withContiguousStorageIfAvailable { storage in Self.read(storage, allowed, depth) }
        switch found ?? Array(bytes).withUnsafeBufferPointer({ Self.read($0, allowed, depth) }) {
        case .success(let fields): self.fields = fields
        case .failure(let error): throw error
        }
    }

    /// Reads the fields named in `names`, which must be flat, and where the value of the field `raw` lies. All others
    /// may be any JSON, and are passed over.
    ///
    /// - Returns: the fields, and the place of the raw one among `bytes`; nil when it is absent.
    /// - Throws: ``JSONError``.
    package static func reading(
        _ names: [String], raw: String, of bytes: [UInt8]
    ) throws(JSONError) -> (object: JSONObject, raw: Range<Int>?) {
        let result = bytes.withUnsafeBufferPointer { storage -> Result<(JSONObject, Range<Int>?), JSONError> in
            var reader = JSONReader(bytes: storage)
            do throws(JSONError) { return .success(try reader.parts(names, raw: raw)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    init(fields: [Field]) { self.fields = fields }

    private static func read(
        _ bytes: UnsafeBufferPointer<UInt8>, _ allowed: [String]?, _ depth: Int
    ) -> Result<[Field], JSONError> {
        var reader = JSONReader(bytes: bytes)
        do throws(JSONError) {
            return .success(try reader.document(allowed: allowed, depth: depth))
        } catch { return .failure(error) }
    }
}
