"""New sentences for the catalogue: proposed by a critic, ranked by gradient, admitted by a test or by a person."""
