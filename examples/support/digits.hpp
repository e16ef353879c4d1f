// Handwritten digits for the examples: the readers of MNIST and optdigits, drawn digits, and
// shifts.
#pragma once

#include "digit_set.hpp"
#include "digit_shift.hpp"
#include "drawn_digits.hpp"
#include "idx.hpp"
#include "optdigits.hpp"
