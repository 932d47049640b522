data "aws_caller_identity" "me" {}

data "aws_region" "here" {}

data "aws_availability_zones" "up" {
  state = "available"
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_ami" "debian" {
  most_recent = true
  owners      = ["amazon"]
  filter {
    name   = "virtualization-type"
    values = ["hvm"]
  }
  filter {
    name   = "architecture"
    values = ["x86_64"]
  }
  filter {
    name   = "root-device-type"
    values = ["ebs"]
  }
}

data "aws_ec2_instance_type" "small" {
  instance_type = "t3.small"
}

data "aws_ec2_instance_types" "burstable" {
  filter {
    name   = "burstable-performance-supported"
    values = ["true"]
  }
}

data "aws_ec2_instance_type_offerings" "here" {
  location_type = "availability-zone"
  filter {
    name   = "instance-type"
    values = ["t3.small"]
  }
}

data "aws_ebs_default_kms_key" "own" {}

data "aws_ebs_encryption_by_default" "own" {}

data "aws_vpc" "main" {
  id = aws_vpc.main.id
}

data "aws_vpcs" "shop" {
  tags       = { Project = "shop" }
  depends_on = [aws_vpc.main]
}

data "aws_subnets" "public" {
  filter {
    name   = "vpc-id"
    values = [aws_vpc.main.id]
  }
  tags       = { Tier = "public" }
  depends_on = [aws_subnet.public]
}

data "aws_instance" "web" {
  instance_id   = aws_instance.web.id
  get_user_data = true
}

data "aws_instances" "web" {
  instance_tags = { Name = aws_instance.web.tags.Name }
  depends_on    = [aws_instance.web]
}

data "aws_security_group" "default" {
  vpc_id = aws_vpc.main.id
  name   = "default"
}

data "aws_route_table" "public" {
  subnet_id  = aws_subnet.public[0].id
  depends_on = [aws_route_table_association.public]
}

data "aws_internet_gateway" "main" {
  filter {
    name   = "attachment.vpc-id"
    values = [aws_vpc.main.id]
  }
  depends_on = [aws_internet_gateway.main]
}

data "aws_key_pair" "admin" {
  key_name           = aws_key_pair.admin.key_name
  include_public_key = true
}

data "aws_eip" "web" {
  id = aws_eip.web.id
}

data "aws_ebs_volume" "data" {
  filter {
    name   = "volume-id"
    values = [aws_ebs_volume.data.id]
  }
}

data "aws_network_interface" "second" {
  id = aws_network_interface.second.id
}

output "account" {
  value = data.aws_caller_identity.me.account_id
}

output "region" {
  value = data.aws_region.here.name
}

output "web" {
  value = {
    id         = aws_instance.web.id
    user_data  = base64decode(data.aws_instance.web.user_data_base64)
    public_ip  = aws_eip.web.public_ip
    vpcs       = length(data.aws_vpcs.shop.ids)
    subnets    = length(data.aws_subnets.public.ids)
    found      = data.aws_instances.web.ids
    memory_mib = data.aws_ec2_instance_type.small.memory_size
    offered_in = length(data.aws_ec2_instance_type_offerings.here.locations)
  }
}
