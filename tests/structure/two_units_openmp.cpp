#include "structure/two_units_look.hpp"

two_units::Sight two_units::openmp_unit() { return look(); }
