// The loss and the logits of a model on given ids, for comparing with another engine: score --help.
#include "support/score_run.hpp"

int main(int argc, char** argv) { return examples::run_score(argc, argv); }
