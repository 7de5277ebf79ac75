// SPDX-License-Identifier: Apache-2.0

package import RingfenceCore

extension Limits {
    /// A key of a cache: as a name, but nobody looks at it, so format characters are the caller's affair.
    package static func check(key: String) throws(InvalidArgument) {
        try check(text: key, field: "key", bytes: nameBytes, isStored: true)
    }
}
