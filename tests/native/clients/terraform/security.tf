resource "aws_security_group" "web" {
  name        = "web"
  description = "Who may ask for pages"
  vpc_id      = aws_vpc.main.id
  tags        = { Stage = var.stage }
}

resource "aws_vpc_security_group_ingress_rule" "web" {
  for_each          = toset([for port in var.ports : tostring(port)])
  security_group_id = aws_security_group.web.id
  cidr_ipv4         = "0.0.0.0/0"
  from_port         = each.key
  to_port           = each.key
  ip_protocol       = "tcp"
  description       = "From everywhere"
}

resource "aws_vpc_security_group_ingress_rule" "itself" {
  security_group_id            = aws_security_group.web.id
  referenced_security_group_id = aws_security_group.web.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = aws_security_group.web.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
  tags              = { Name = "out" }
}

resource "aws_security_group" "store" {
  name_prefix = "store-"
  vpc_id      = aws_vpc.main.id

  ingress {
    description     = "The web servers"
    from_port       = 5432
    to_port         = 5432
    protocol        = "tcp"
    security_groups = [aws_security_group.web.id]
  }
  ingress {
    description = "Each other"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    self        = true
  }
  dynamic "ingress" {
    for_each = var.ports
    content {
      from_port   = ingress.value
      to_port     = ingress.value
      protocol    = "udp"
      cidr_blocks = ["10.0.0.0/8", "172.16.0.0/12"]
    }
  }
  ingress {
    from_port   = 8
    to_port     = -1
    protocol    = "icmp"
    cidr_blocks = ["10.0.0.0/8"]
  }
  egress {
    from_port        = 0
    to_port          = 0
    protocol         = "-1"
    cidr_blocks      = ["0.0.0.0/0"]
    ipv6_cidr_blocks = ["::/0"]
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "old" {
  name   = "old"
  vpc_id = aws_vpc.other.id
}

resource "aws_security_group_rule" "old" {
  type              = "ingress"
  security_group_id = aws_security_group.old.id
  from_port         = 22
  to_port           = 22
  protocol          = "tcp"
  cidr_blocks       = ["192.0.2.0/24"]
  description       = var.stage
}

resource "aws_default_security_group" "other" {
  vpc_id = aws_vpc.other.id
}

resource "aws_network_acl" "private" {
  vpc_id     = aws_vpc.main.id
  subnet_ids = [for subnet in aws_subnet.private : subnet.id]

  ingress {
    rule_no    = 100
    action     = "allow"
    protocol   = "tcp"
    cidr_block = aws_vpc.main.cidr_block
    from_port  = 1024
    to_port    = 65535
  }
  ingress {
    rule_no    = 110
    action     = "allow"
    protocol   = "icmp"
    cidr_block = aws_vpc.main.cidr_block
    from_port  = 0
    to_port    = 0
    icmp_type  = 8
    icmp_code  = -1
  }
  egress {
    rule_no    = 100
    action     = "allow"
    protocol   = "-1"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
}

resource "aws_network_acl_rule" "closed" {
  network_acl_id = aws_network_acl.public.id
  rule_number    = 50
  rule_action    = "deny"
  protocol       = "tcp"
  cidr_block     = "198.51.100.0/24"
  from_port      = 25
  to_port        = 25
}

resource "aws_network_acl" "public" {
  vpc_id = aws_vpc.main.id
}

resource "aws_network_acl_association" "public" {
  network_acl_id = aws_network_acl.public.id
  subnet_id      = aws_subnet.public[1].id
}

resource "aws_default_network_acl" "other" {
  default_network_acl_id = aws_vpc.other.default_network_acl_id
  ingress {
    rule_no    = 100
    action     = "allow"
    protocol   = "-1"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
  egress {
    rule_no    = 100
    action     = "allow"
    protocol   = "-1"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
}
