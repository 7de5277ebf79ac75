// SPDX-License-Identifier: Apache-2.0
#ifndef RINGFENCE_CHIREDIS_H
#define RINGFENCE_CHIREDIS_H
#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#endif
